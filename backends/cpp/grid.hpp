// One value rounded to a grid, and the stochastic bits: the compiled twin of precc/rounding/tensor_ops.py.
//
// Everything is written without branches on values, so that the compiler can vectorise the loops around it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

namespace {

enum Mode { NEAREST_EVEN = 0, NEAREST_AWAY = 1, TOWARD_ZERO = 2, STOCHASTIC = 3 };

}  // namespace

extern "C" {

// Mirrored by ctypes: keep the order.
struct Grid {
  int64_t dropped_bits, k_min, negative_zero, ties;
  double smallest_normal, low, high, below, above, tiny;
};

struct Draw {
  uint64_t key, slot;
  uint64_t random_mask;  // of the 31-bit random number
};
}

namespace {

template <class T>
struct Carrier;
template <>
struct Carrier<float> {
  using Bits = uint32_t;
  static constexpr int mantissa_bits = 23, bias = 127;
  static constexpr Bits magnitude = 0x7fffffffu;
};
template <>
struct Carrier<double> {
  using Bits = uint64_t;
  static constexpr int mantissa_bits = 52, bias = 1023;
  static constexpr Bits magnitude = 0x7fffffffffffffffull;
};

template <class To, class From>
inline To as(From from) {
  To to;
  static_assert(sizeof(to) == sizeof(from), "same width");
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

uint64_t splitmix64(uint64_t number) {
  uint64_t z = number + 0x9E3779B97F4A7C15ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

// The stream of (key, slot) for the elements of one range of 2**32.
struct Stream {
  uint32_t a, b, mask;
  Stream(const Draw& draw, int64_t chunk) {
    uint64_t state = splitmix64(splitmix64(draw.key) ^ draw.slot);
    if (chunk) state = splitmix64(state ^ splitmix64(uint64_t(chunk)));
    a = uint32_t(state >> 32), b = uint32_t(state), mask = uint32_t(draw.random_mask);
  }
  inline uint32_t operator()(uint32_t index) const {
    uint32_t x = index * 0x9e3779b9u + a;
    x = (x ^ (x >> 16)) * 0x7feb352du ^ b;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return ((x ^ (x >> 16)) >> 1) & mask;
  }
};

// What `Rounder` computes: any grid; grids without a smallest magnitude or a rule for ties; and, to nearest, those that
// saturate, and those that also have one quantum and no negative zero.
enum Path { GENERAL = 0, SIMPLE = 1, SATURATING = 2, UNIFORM = 3 };

// A grid with everything that one rounding needs.
template <class T>
struct Rounder {
  using Bits = typename Carrier<T>::Bits;
  Bits add, last_mask, force, flip, keep;
  int dropped, random_right, random_left;
  Bits clip, least_exponent, to_magic;
  bool simple, magic_everywhere, saturating, uniform;
  T magic, signed_magic, quantum, half_quantum, smallest_normal, low, high, below, above, tiny, zero;
  T to_fraction, to_random;

  explicit Rounder(const Grid& grid) {
    dropped = int(grid.dropped_bits);
    const Bits half = dropped ? Bits(1) << (dropped - 1) : 0;
    const bool one_bit = dropped == Carrier<T>::mantissa_bits;
    add = dropped ? half - 1 : 0;
    last_mask = dropped && !(one_bit && grid.ties == 0);
    force = one_bit && grid.ties == 0;
    flip = one_bit && grid.ties == 2;
    keep = ~Bits(0) << dropped;
    random_right = std::max(0, 31 - dropped), random_left = std::max(0, dropped - 31);
    const int k = int(grid.k_min);
    magic = T(std::ldexp(1.0, k + Carrier<T>::mantissa_bits));
    quantum = T(std::ldexp(1.0, k)), half_quantum = quantum / 2;
    if (half_quantum == 0) half_quantum = std::numeric_limits<T>::infinity();  // no value lies between
    const int first = (31 - k) >> 1;
    to_fraction = T(std::ldexp(1.0, first)), to_random = T(std::ldexp(1.0, 31 - k - first));
    smallest_normal = T(grid.smallest_normal), low = T(grid.low), high = T(grid.high);
    below = T(grid.below), above = T(grid.above), tiny = T(grid.tiny);
    zero = grid.negative_zero ? T(-0.0) : T(0.0);
    simple = tiny == 0 && !(one_bit && grid.ties);
    // Magnitudes are cut at a power of two beyond the grid, so that the constant of `nearest_by_magic` is finite.
    const double widest = std::max(std::abs(grid.low), std::abs(grid.high));
    const int top = std::isfinite(widest) ? std::ilogb(widest) + 1 : Carrier<T>::bias + 1;
    constexpr int M = Carrier<T>::mantissa_bits, bias = Carrier<T>::bias;
    const T cut = T(std::ldexp(1.0, top));
    const bool one_quantum = cut <= smallest_normal;
    magic_everywhere = simple && top + dropped <= bias && (dropped || one_quantum) &&
                       (one_quantum || smallest_normal == T(std::ldexp(1.0, k + M - dropped)));
    clip = as<Bits>(cut);
    least_exponent = Bits(std::max(0, k + M - dropped + bias)) << M;
    to_magic = Bits(dropped) << M;
    saturating = magic_everywhere && above == high && below == low && low < 0 && is_value(high) && is_value(-low);
    uniform = saturating && one_quantum && !grid.negative_zero && top < k + M;
    signed_magic = T(1.5) * magic;
  }

  // The fastest path that computes this grid.
  int path(int mode) const {
    if (mode != NEAREST_EVEN || !magic_everywhere) return simple && mode != NEAREST_EVEN ? SIMPLE : GENERAL;
    return uniform ? UNIFORM : saturating ? SATURATING : SIMPLE;
  }

  bool is_value(T size) const {
    return size <= std::numeric_limits<T>::max() && nearest_by_magic(as<Bits>(size)) == size;
  }

  // To nearest where what leaves the grid becomes its end. Rounding is monotone and leaves the ends as they are, so
  // that values may be cut first; low < 0 < high, so that cutting changes no sign. Neither comparison is true of a NaN:
  // it passes through.
  template <int path>
  inline T nearest_saturating(T x) const {
    x = low > x ? low : x;
    x = high < x ? high : x;
    // |x| <= 2**(k + M - 1) for the quantum 2**k: the sum is from 2**(k + M) to 2**(k + M + 1), where 2**k is the
    // carrier's quantum too, and 1.5 * 2**(k + M) is an even multiple; the difference is exact, and +0 for zero
    if (path == UNIFORM) return (x + signed_magic) - signed_magic;
    const Bits bits = as<Bits>(x);
    const Bits exponent = bits & (Carrier<T>::magnitude & ~((Bits(1) << Carrier<T>::mantissa_bits) - 1));
    const T constant = as<T>(Bits((exponent > least_exponent ? exponent : least_exponent) + to_magic));
    const T rounded = (as<T>(Bits(bits & Carrier<T>::magnitude)) + constant) - constant;
    return as<T>(Bits(as<Bits>(rounded) | (bits & ~Carrier<T>::magnitude))) + zero;
  }

  // To nearest, of magnitudes up to `clip`: the hardware rounds to the quantum when the constant is added whose
  // own last bit is that quantum.
  inline T nearest_by_magic(Bits magnitude) const {
    const Bits cut = magnitude < clip ? magnitude : clip;
    const Bits exponent = cut & ~((Bits(1) << Carrier<T>::mantissa_bits) - 1);
    const T constant = as<T>(Bits((exponent > least_exponent ? exponent : least_exponent) + to_magic));
    return (as<T>(cut) + constant) - constant;
  }

  // Called in loops that can only be vectorised when it is part of them.
  template <int mode, int path>
  [[gnu::always_inline]] inline T operator()(T x, uint32_t random) const {
    if (path >= SATURATING) return nearest_saturating<path>(x);
    constexpr bool fast = path == SIMPLE;
    const Bits bits = as<Bits>(x);
    const Bits sign = bits & ~Carrier<T>::magnitude;
    Bits magnitude = bits & Carrier<T>::magnitude;
    if (fast && mode == NEAREST_EVEN)
      return limited<mode>(x, as<T>(Bits(as<Bits>(nearest_by_magic(magnitude)) | sign)));
    T size = as<T>(magnitude);
    if (!fast) {
      size = size > T(0) && size < tiny ? tiny : size;
      magnitude = as<Bits>(size);
    }

    Bits normal;
    if (mode == NEAREST_EVEN)
      normal = magnitude + add + ((((magnitude >> dropped) ^ flip) & last_mask) | force);
    else if (mode == NEAREST_AWAY)
      normal = magnitude + (dropped ? add + 1 : 0);
    else if (mode == STOCHASTIC)
      normal = magnitude + ((Bits(random) >> random_right) << random_left);
    else
      normal = magnitude;
    const T above_normal = as<T>(Bits(normal & keep));

    T subnormal = (size + magic) - magic;
    if (mode == NEAREST_AWAY) {
      subnormal = size - subnormal == half_quantum ? subnormal + quantum : subnormal;
    } else if (mode == TOWARD_ZERO || mode == STOCHASTIC) {
      subnormal = subnormal > size ? subnormal - quantum : subnormal;
      if (mode == STOCHASTIC) {
        // the guard keeps the conversion in range for magnitudes that are not below 2**emin
        const T rest = size < smallest_normal ? size - subnormal : T(0);
        const uint32_t fraction = uint32_t(int32_t(rest * to_fraction * to_random));
        subnormal = (fraction + random) >> 31 ? subnormal + quantum : subnormal;
      }
    }
    return limited<mode>(x, as<T>(Bits(as<Bits>(size < smallest_normal ? subnormal : above_normal) | sign)));
  }

  template <int mode>
  inline T limited(T x, T rounded) const {
    T over = above, under = below;
    if (mode == TOWARD_ZERO) {
      over = x <= std::numeric_limits<T>::max() ? high : above;
      under = x >= std::numeric_limits<T>::lowest() ? low : below;
    }
    T inside = rounded > high ? over : rounded;
    inside = rounded < low ? under : inside;
    inside = inside + zero;
    return x != x ? x : inside;
  }
};

}  // namespace
