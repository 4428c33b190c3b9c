// The derivatives of batch norm for one channel, from the means of a few products; shared by the CPU and the GPU.
//
// x^ are the normalized values, g is the gradient at batch norm's output, h the tangent at its input, or h less any
// constant, and a = rstd. The suffix _bar denotes the mean over the channel's values.
//
// x^ is computed with a rounded mean, so its own mean x_bar is not exactly 0: if a channel's mean is R times its
// standard deviation, x_bar is about R times the rounding unit. Convolutions amplify what all values share by R once
// more, so the formulas subtract x_bar. They are written with
//   x = x^ - x_bar,  A = (g x)_bar,  H = (h x)_bar,  D = (g h)_bar - g_bar h_bar - A H
// A caller that does not know x_bar passes 0.
#pragma once

#include "core/host_device.h"

namespace maml_fast {

// grad_r = gamma a (g - g_bar - x A)   (Ioffe & Szegedy 2015, the last equations of section 3), written as
// of_g g + of_x x^ + one.
struct NormGradient {
  double of_g, of_x, one;

  MF_HD static NormGradient Of(double a, double gamma, double x_bar, double g_bar, double gx_bar) {
    const double scale = gamma * a, A = gx_bar - g_bar * x_bar;
    return {scale, -scale * A, scale * (A * x_bar - g_bar)};
  }
};

// With <h, grad_r> = M gamma a D for M values, and with gg_gamma and gg_beta the tangents of gamma and beta:
//   tangent_z    = gg_gamma x + gg_beta + gamma a (h - h_bar - H x)
//   second_r     = gg_gamma a (g - g_bar - A x) - gamma a^2 ((D - 2 A H) x + H (g - g_bar) + A (h - h_bar))
//   second_gamma = M a D
struct NormSecond {
  double tangent_z[3];  // coefficients of h, x^ and 1
  double second_r[4];   // coefficients of g, h, x^ and 1
  double second_gamma;  // divided by M

  MF_HD static NormSecond Of(double a, double gamma, double gg_gamma, double gg_beta, double x_bar, double g_bar,
                             double gx_bar, double h_bar, double hx_bar, double gh_bar) {
    const double A = gx_bar - g_bar * x_bar, H = hx_bar - h_bar * x_bar, D = gh_bar - g_bar * h_bar - A * H;
    const double scale = gamma * a, square = gamma * a * a;
    const double z_x = gg_gamma - scale * H, r_x = -gg_gamma * a * A - square * (D - 2 * A * H);
    return {{scale, z_x, gg_beta - scale * h_bar - z_x * x_bar},
            {gg_gamma * a - square * H, -square * A, r_x,
             -gg_gamma * a * g_bar + square * (H * g_bar + A * h_bar) - r_x * x_bar},
            a * D};
  }
};

}  // namespace maml_fast
