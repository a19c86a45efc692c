// The scales of blocks from their largest magnitudes: the compiled twin of precc/rounding/scales.py.
#pragma once

#include "grid.hpp"

extern "C" {

// Mirrored by ctypes in kernels.py: keep the order.
struct Scale {
  int64_t rule, two_level;
  double low, high, element_high;
  Grid grid;  // of the scales themselves, on the carrier
};
}

namespace {

enum Rule { FLOOR = 0, CEIL = 1, NEAREST = 2 };

constexpr int64_t PAIRED = 1024;  // columns whose largest magnitudes are found together

template <class T>
using BitsOf = typename Carrier<T>::Bits;

// Magnitudes compare as integers; a NaN is larger than all.
template <class T>
inline BitsOf<T> magnitude_bits(T x) {
  return as<BitsOf<T>>(x) & Carrier<T>::magnitude;
}

template <class T>
T amax_flat(const T* x, int64_t count, int threads) {
  BitsOf<T> largest = 0;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(max : largest)
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, magnitude_bits(x[i]));
  return as<T>(largest);
}

// The largest magnitudes of whole blocks of `run` columns, a power of two, by pairs: `count` of them are halved until
// one is left of each block. All blocks advance in one vectorised loop, where one at a time is a chain of shuffles.
template <class T>
inline void amax_by_pairs(const T* x, BitsOf<T>* amax, int64_t count, int64_t run) {
  BitsOf<T> largest[PAIRED / 2];
  int64_t left = count / 2;
  for (int64_t i = 0; i < left; ++i) largest[i] = std::max(magnitude_bits(x[2 * i]), magnitude_bits(x[2 * i + 1]));
  for (; run > 2; run /= 2) {
    left /= 2;
#pragma GCC ivdep  // what is written has been read: a vector of iterations reads as far as it writes, or farther
    for (int64_t i = 0; i < left; ++i) largest[i] = std::max(largest[2 * i], largest[2 * i + 1]);
  }
  for (int64_t i = 0; i < left; ++i) amax[i] = std::max(amax[i], largest[i]);
}

// Blocks of a segment of one row: the row's columns are cut every `run`.
template <class T>
void amax_row(const T* x, BitsOf<T>* amax, int64_t columns, int64_t run) {
  int64_t block = 0, begin = 0;
  if (run == 1) {
    for (; begin < columns; ++begin) amax[begin] = std::max(amax[begin], magnitude_bits(x[begin]));
  } else if (run <= 32 && (run & (run - 1)) == 0) {
    for (int64_t size; (size = std::min(PAIRED, columns - begin) / run * run) > 0; begin += size, block += size / run)
      amax_by_pairs(x + begin, amax + block, size, run);
  }
  for (; begin < columns; begin += run, ++block) {
    BitsOf<T> largest = amax[block];
    const int64_t end = std::min(columns, begin + run);
    for (int64_t i = begin; i < end; ++i) largest = std::max(largest, magnitude_bits(x[i]));
    amax[block] = largest;
  }
}

// The scales of blocks from their largest magnitudes; as block_scales in precc/rounding/scales.py.
template <class T>
struct ScaleFinder {
  using Bits = BitsOf<T>;
  using Int = std::make_signed_t<Bits>;
  static constexpr int M = Carrier<T>::mantissa_bits, bias = Carrier<T>::bias;
  const Scale& scale;
  Rounder<T> scale_rounder;
  T element_high, tensor;
  Bits element_fraction;
  Int element_exponent, low, high;

  ScaleFinder(const Scale& scale, T tensor_amax) : scale(scale), scale_rounder(scale.grid) {
    element_high = T(scale.element_high);
    tensor = tensor_amax / T(scale.element_high * scale.high);
    element_fraction = as<Bits>(element_high) & fraction_mask;
    element_exponent = Int(as<Bits>(element_high) >> M) - bias;
    low = std::ilogb(scale.low), high = std::ilogb(scale.high);
  }

  static constexpr Bits fraction_mask = (Bits(1) << M) - 1;
  static inline T power_of_two(Int exponent) {  // in two factors: it may be below the normal numbers
    const Int half = exponent >> 1;
    return as<T>(Bits(half + bias) << M) * as<T>(Bits(exponent - half + bias) << M);
  }

  template <int rule>
  void powers(const Bits* amax, T* scales, int64_t count) const {
    for (int64_t i = 0; i < count; ++i) {
      const T size = as<T>(amax[i]);
      const bool small = amax[i] >> M == 0;
      const Bits bits = small ? as<Bits>(T(size * power_of_two(M + 1))) : amax[i];
      Int exponent = Int(bits >> M) - bias - (small ? M + 1 : 0) - element_exponent;
      if (rule == CEIL) exponent += (bits & fraction_mask) > element_fraction ? 1 : 0;
      exponent = amax[i] == 0 ? low : exponent;
      exponent = exponent < low ? low : exponent;
      exponent = exponent > high ? high : exponent;
      scales[i] = size < std::numeric_limits<T>::infinity() ? power_of_two(exponent) : nan;
    }
  }

  void nearest(const Bits* amax, T* scales, int64_t count) const {
    const bool two_level = scale.two_level;
    const T divisor = !two_level ? T(1) : tensor == 0 ? std::numeric_limits<T>::infinity() : tensor;
    const T factor = two_level ? tensor : T(1);
    const Rounder<T> round = scale_rounder;  // a copy stays in registers, whatever `scales` is written
    const T element_high = this->element_high;
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) {
      const T size = as<T>(amax[i]);
      const T found = round.template operator()<NEAREST_EVEN, GENERAL>(size / element_high / divisor, 0) * factor;
      scales[i] = size < std::numeric_limits<T>::infinity() ? found : nan;
    }
  }

  [[gnu::noinline]] void operator()(const Bits* amax, T* scales, int64_t count) const {
    if (scale.rule == FLOOR)
      powers<FLOOR>(amax, scales, count);
    else if (scale.rule == CEIL)
      powers<CEIL>(amax, scales, count);
    else
      nearest(amax, scales, count);
  }

  static constexpr T nan = std::numeric_limits<T>::quiet_NaN();
};

}  // namespace
