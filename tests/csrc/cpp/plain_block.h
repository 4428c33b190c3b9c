// The block's definition, written plainly and in double, with what tests need around it: shapes, inputs, threads.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include "check.h"
#include "core/conv_block.h"
#include "cpu/parallel.h"

namespace maml_fast {

using Values = std::vector<double>;

inline int64_t g_threads = 1;

inline void RunThreads(int64_t count, Pool::Body body, void* context) {
  const int64_t chunk = (count + g_threads - 1) / g_threads;
  std::vector<std::thread> threads;
  for (int64_t begin = 0; begin < count; begin += chunk) {
    threads.emplace_back(body, context, begin, std::min(count, begin + chunk));
  }
  for (std::thread& thread : threads) thread.join();
}

// Threads are std::thread, so that the thread sanitizer sees every access.
inline Pool PoolOf(int64_t threads) {
  g_threads = threads;
  return {threads, RunThreads, 0};
}

inline ConvBlockShape MakeShape(int64_t tasks, int64_t batch, int64_t in, int64_t height, int64_t width, int64_t out,
                                int64_t kernel, int64_t stride, int64_t padding, bool pool, bool relu_first) {
  ConvBlockShape s{tasks, batch, in, height, width, out, kernel, stride, padding, 0, 0, 0, 0, pool, relu_first, 1e-3};
  s.Derive();
  return s;
}

inline Values Random(int64_t count, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> normal;
  Values values(static_cast<size_t>(count));
  for (double& v : values) v = normal(engine);
  return values;
}

struct Inputs {
  Values x, weight, bias, gamma, beta;

  std::vector<Values*> All() { return {&x, &weight, &bias, &gamma, &beta}; }
};

inline Inputs RandomInputs(const ConvBlockShape& s, unsigned seed) {
  const int64_t channels = s.tasks * s.out_channels;
  return {Random(s.tasks * s.batch * s.InPixels() * s.in_channels, seed), Random(s.tasks * s.WeightSize(), seed + 1),
          Random(channels, seed + 2), Random(channels, seed + 3), Random(channels, seed + 4)};
}

inline double PlainConvolution(const ConvBlockShape& s, const Inputs& in, int64_t image, int64_t i, int64_t j,
                               int64_t c) {
  const int64_t task = image / s.batch;
  double sum = in.bias[task * s.out_channels + c];
  for (int64_t p = 0; p < s.kernel; ++p) {
    for (int64_t q = 0; q < s.kernel; ++q) {
      const int64_t row = i * s.stride - s.padding + p, col = j * s.stride - s.padding + q;
      if (row < 0 || col < 0 || row >= s.in_height || col >= s.in_width) continue;
      for (int64_t channel = 0; channel < s.in_channels; ++channel) {
        const int64_t tap = (p * s.kernel + q) * s.in_channels + channel;
        sum += in.x[((image * s.in_height + row) * s.in_width + col) * s.in_channels + channel] *
               in.weight[(task * s.PatchSize() + tap) * s.out_channels + c];
      }
    }
  }
  return sum;
}

struct PlainResult {
  Values out, mean, rstd;
};

inline PlainResult PlainForward(const ConvBlockShape& s, const Inputs& in) {
  PlainResult result;
  result.out.resize(static_cast<size_t>(s.tasks * s.batch * s.OutPixels() * s.out_channels));
  for (int64_t task = 0; task < s.tasks; ++task) {
    for (int64_t c = 0; c < s.out_channels; ++c) {
      Values r;
      for (int64_t b = 0; b < s.batch; ++b) {
        for (int64_t p = 0; p < s.ConvPixels(); ++p) {
          const double y = PlainConvolution(s, in, task * s.batch + b, p / s.conv_width, p % s.conv_width, c);
          r.push_back(s.relu_first ? std::max(y, 0.0) : y);
        }
      }
      double mean = 0, variance = 0;
      for (const double v : r) mean += v / static_cast<double>(r.size());
      for (const double v : r) variance += (v - mean) * (v - mean) / static_cast<double>(r.size());
      const int64_t channel = task * s.out_channels + c;
      const double rstd = 1 / std::sqrt(variance + s.eps);
      result.mean.push_back(mean);
      result.rstd.push_back(rstd);
      for (double& v : r) {
        v = (v - mean) * rstd * in.gamma[channel] + in.beta[channel];
        if (!s.relu_first) v = std::max(v, 0.0);
      }
      for (int64_t b = 0; b < s.batch; ++b) {
        for (int64_t p = 0; p < s.OutPixels(); ++p) {
          const int64_t i = p / s.out_width, j = p % s.out_width, side = s.pool ? 2 : 1;
          double best = -INFINITY;
          for (int64_t e = 0; e < side * side; ++e) {
            best = std::max(best, r[b * s.ConvPixels() + (side * i + e / side) * s.conv_width + side * j + e % side]);
          }
          result.out[((task * s.batch + b) * s.OutPixels() + p) * s.out_channels + c] = best;
        }
      }
    }
  }
  return result;
}

inline double Dot(const Values& a, const Values& b) {
  CHECK_EQ(a.size(), b.size());
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

inline void CheckClose(double actual, double expected, double tolerance) {
  if (!(std::abs(actual - expected) <= tolerance * (1 + std::abs(expected)))) CHECK_EQ(actual, expected);
}

// (f(inputs + h direction) - f(inputs - h direction)) / 2h
inline double Slope(const Inputs& at, Inputs direction, const std::function<double(const Inputs&)>& f) {
  constexpr double kStep = 1e-6;
  auto moved = [&](double step) {
    Inputs in = at;
    for (size_t i = 0; i < 5; ++i) {
      for (size_t j = 0; j < in.All()[i]->size(); ++j) (*in.All()[i])[j] += step * (*direction.All()[i])[j];
    }
    return in;
  };
  return (f(moved(kStep)) - f(moved(-kStep))) / (2 * kStep);
}

}  // namespace maml_fast
