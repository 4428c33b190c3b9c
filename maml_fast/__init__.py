"""Task-batched MAML through fused conv-BN-ReLU-pool kernels, with forward, backward and double backward."""
