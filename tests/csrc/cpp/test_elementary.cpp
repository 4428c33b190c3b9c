// The elementary functions on the vectors that every machine has.
#define MF_VECTOR_BYTES 16
#include "elementary_checks.h"

int main() { maml_fast::CheckElementary(); }
