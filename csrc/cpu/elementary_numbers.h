// The constants of the elementary functions, in both precisions.
//
// The polynomials have their highest power first. They minimize the relative error of the function that they are used
// in, and were found with the Remez exchange algorithm in 50 digits. Comments give what each approximates, on which
// range, and its errors for float and for double.
#pragma once

#include <cstdint>

#include "cpu/simd.h"

namespace maml_fast {
namespace {

template <typename Scalar>
struct Elementary;

template <>
struct Elementary<float> {
  using Word = uint32_t;
  typedef Word Words __attribute__((vector_size(MF_VECTOR_BYTES)));

  static constexpr float kExpIsZero = -104, kExpIsInfinite = 89, kErfIsOne = 4;  // limits of the argument

  // ln(2) and pi / 2 as sums. All parts but the last have so few bits that their products with any exponent, and with
  // any integer up to 2^16, are exact.
  static constexpr float kLn2[] = {0.69314575f, 1.4286068e-06f};
  static constexpr float kHalfPi[] = {1.5703125f,    0.00048446655f, -6.4074993e-07f,
                                      9.895302e-10f, 2.5579538e-12f, 5.390303e-15f};

  // (exp(x) - 1 - x) / x^2, |x| < ln(2) / 2: 2^-28, 2^-57
  static constexpr float kExp[] = {0.00138145974f, 0.008368717f, 0.04166839f, 0.16666521f, 0.49999993f};
  // (log((1 + s) / (1 - s)) / s - 2) / s^2 in s^2, |s| < 0.1716: 2^-30, 2^-59
  static constexpr float kLog[] = {0.29871862f, 0.39977537f, 0.66666776f};
  // (sin(x) / x - 1) / x^2 in x^2, |x| < 0.795: 2^-27, 2^-57
  static constexpr float kSin[] = {-0.00019509393f, 0.008332121f, -0.16666654f};
  // (1 - x^2 / 2 - cos(x)) / x^4 in x^2, |x| < 0.795: 2^-32, 2^-63
  static constexpr float kCos[] = {-2.4424007e-05f, 0.0013887237f, -0.041666644f};
  // (tanh(x) / x - 1) / x^2 in x^2, |x| < 0.6: 2^-28, 2^-57
  static constexpr float kTanh[] = {-0.0059058687f, 0.020805385f, -0.053786684f, 0.13331958f, -0.333333f};
  // erf(x) / x - 1 in x^2, |x| < 0.9: 2^-26, 2^-60
  static constexpr float kErf[] = {-0.000609036f, 0.0050119629f, -0.026778909f,
                                   0.11282141f,   -0.376125233f, 0.12837915f};
  // log(1 - erf(x)), 0.9 < x < kErfIsOne: 2^-29, 2^-58
  static constexpr float kLogErfc[] = {0.00019821962f, -0.00306549f, 0.022315212f,    -0.104113676f,
                                       -0.63697609f,   -1.1277972f,  -0.000166448132f};
};

template <>
struct Elementary<double> {
  using Word = uint64_t;
  typedef Word Words __attribute__((vector_size(MF_VECTOR_BYTES)));

  static constexpr double kExpIsZero = -746, kExpIsInfinite = 710, kErfIsOne = 6;

  static constexpr double kLn2[] = {0.6931471805598903, 5.497923018708371e-14};
  static constexpr double kHalfPi[] = {1.5707963267923333, 2.5633441515839558e-12, 1.0562999066987428e-23};

  static constexpr double kExp[] = {2.5000058233082755e-08, 2.763024841576577e-07,  2.7557586384590457e-06,
                                    2.480149309881268e-05,  0.00019841269506566412, 0.0013888888943630186,
                                    0.008333333333494468,   0.041666666666530155,   0.16666666666666413,
                                    0.5000000000000011};
  static constexpr double kLog[] = {0.14796105473506602, 0.1531403583480592, 0.1818356486655082, 0.2222219856349128,
                                    0.2857142874247478,  0.3999999999941432, 0.6666666666666734};
  static constexpr double kSin[] = {1.5892857169566933e-10,  -2.5050691655226622e-08, 2.7557313278155402e-06,
                                    -0.00019841269828650156, 0.008333333333321018,    -0.16666666666666627};
  static constexpr double kCos[] = {1.1355756868443056e-11,  -2.0875647736907034e-09, 2.755731379336458e-07,
                                    -2.4801587287534107e-05, 0.0013888888888870978,   -0.04166666666666658};
  static constexpr double kTanh[] = {-1.7210840630056863e-05, 7.93772530947465e-05,   -0.00023045063528203733,
                                     0.0005872142305041805,   -0.0014552230410490342, 0.0035920388412495575,
                                     -0.008863226955379723,   0.02186948801595515,    -0.053968253949874895,
                                     0.13333333333300904,     -0.3333333333333313};
  static constexpr double kErf[] = {-8.481850267048417e-10, 1.4046047274904578e-08,  -1.6275476078645287e-07,
                                    1.6455213924603682e-06, -1.4925299738742673e-05, 0.00012055321042148324,
                                    -0.0008548326754917866, 0.005223977621603178,    -0.02686617064480663,
                                    0.11283791670953704,    -0.37612638903183726,    0.1283791670955126};
  static constexpr double kLogErfc[] = {
      1.3681408085516863e-12, -6.115479439474874e-11, 1.2800629142769758e-09,  -1.6658666513066137e-08,
      1.507448703049088e-07,  -1.002718903859278e-06, 5.0318872470380505e-06,  -1.905959729264726e-05,
      5.230364567601093e-05,  -8.688166088311745e-05, -1.4861235553221213e-05, 0.0005978855292039866,
      -0.0017195593199995237, 0.0002364451447341749,  0.01910808820649852,     -0.10276223005851583,
      -0.6366232916064577,    -1.1283784455499934,    -6.790548869898942e-08};
};

}  // namespace
}  // namespace maml_fast
