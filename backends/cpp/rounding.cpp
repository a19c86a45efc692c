// Rounding tensors to a grid, alone or with a scale for each block: the compiled twin of precc/rounding.
//
// A tensor is contiguous and seen as [d0, d1, d2, d3], cut into blocks of [b0, b1, b2, b3]. Results do not depend on
// the number of threads: each element and each block is computed by one thread, from its index alone.

#include <vector>

#include "grid.hpp"

extern "C" {

// Mirrored by ctypes in kernels.py: keep the order.
struct Scale {
  int64_t rule, two_level;
  double low, high, element_high;
  Grid grid;  // of the scales themselves, on the carrier
};

struct Shape {
  int64_t size[4], block[4];
};
}

namespace {

enum Rule { FLOOR = 0, CEIL = 1, NEAREST = 2 };

// How a value is divided by its scale: the reciprocal of a power of two is exact, so the quotient is the same.
enum Scaled { NONE, DIVIDE, MULTIPLY };

template <int scaled, class T>
inline T inverse_of(T scale) {
  const T divisor = scale == 0 ? std::numeric_limits<T>::infinity() : scale;  // an underflown scale leaves zeros
  return scaled == MULTIPLY ? T(1) / divisor : divisor;
}

template <int scaled, class T>
struct Scaler {
  T scale, inverse;
  inline T down(T x) const { return scaled == NONE ? x : scaled == MULTIPLY ? x * inverse : x / inverse; }
  inline T up(T x) const { return scaled == NONE ? x : x * scale; }
};

template <class T>
bool has_exact_inverse(T scale) {
  int exponent;
  return std::frexp(scale, &exponent) == T(0.5) && exponent > -120 && exponent < 120;
}

template <int mode, bool fast, int scaled, class T>
inline void round_run(const T* x, T* y, int64_t count, const Rounder<T>& round, const Scaler<scaled, T>& by,
                      const Stream& stream, int64_t index) {
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t random = mode == STOCHASTIC ? stream(uint32_t(index) + uint32_t(i)) : 0;
    y[i] = by.up(round.template operator()<mode, fast>(by.down(x[i]), random));
  }
}

constexpr int64_t PIECE = 8192;  // elements of a task
constexpr int64_t SEGMENT = 1024;  // of a block row: read twice, the second time from the first-level cache

template <int mode, bool fast, int scaled, class T>
void round_flat(const T* x, T* y, int64_t count, const Rounder<T>& round, const Draw& draw, T scale, int threads) {
  const Scaler<scaled, T> by{scale, inverse_of<scaled>(scale)};
  const int64_t pieces = (count + PIECE - 1) / PIECE;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t piece = 0; piece < pieces; ++piece) {  // a power of two long: none crosses a multiple of 2**32
    const int64_t begin = piece * PIECE, size = std::min(PIECE, count - begin);
    round_run<mode, fast, scaled>(x + begin, y + begin, size, round, by, Stream(draw, begin >> 32), begin);
  }
}

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

// The scales of blocks from their largest magnitudes; as block_scales in precc/rounding/scales.py.
template <class T>
struct ScaleFinder {
  using Bits = BitsOf<T>;
  using Int = std::make_signed_t<Bits>;
  static constexpr int M = Carrier<T>::mantissa_bits, bias = Carrier<T>::bias;
  const Scale& scale;
  Rounder<T> round;
  T element_high, tensor;
  Bits element_fraction;
  Int element_exponent, low, high;

  ScaleFinder(const Scale& scale, T tensor_amax) : scale(scale), round(scale.grid) {
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
    for (int64_t i = 0; i < count; ++i) {
      const T size = as<T>(amax[i]);
      const T found = round.template operator()<NEAREST_EVEN, false>(size / element_high / divisor, 0) * factor;
      scales[i] = size < std::numeric_limits<T>::infinity() ? found : nan;
    }
  }

  void operator()(const Bits* amax, T* scales, int64_t count) const {
    if (scale.rule == FLOOR)
      powers<FLOOR>(amax, scales, count);
    else if (scale.rule == CEIL)
      powers<CEIL>(amax, scales, count);
    else
      nearest(amax, scales, count);
  }

  static constexpr T nan = std::numeric_limits<T>::quiet_NaN();
};

template <class T, int fixed>
inline void amax_runs(const T* x, BitsOf<T>* amax, int64_t columns, int64_t run) {
  const int64_t length = fixed ? fixed : run;
  int64_t block = 0, begin = 0;
  for (; begin + length <= columns; begin += length, ++block) {
    BitsOf<T> largest = amax[block];
    for (int64_t i = 0; i < length; ++i) largest = std::max(largest, magnitude_bits(x[begin + i]));
    amax[block] = largest;
  }
  for (int64_t i = begin; i < columns; ++i) amax[block] = std::max(amax[block], magnitude_bits(x[i]));
}

// Blocks of a segment of one row: the row's columns are cut every `run`.
template <class T>
void amax_row(const T* x, BitsOf<T>* amax, int64_t columns, int64_t run) {
  if (run == 1)
    for (int64_t i = 0; i < columns; ++i) amax[i] = std::max(amax[i], magnitude_bits(x[i]));
  else if (run == 16)
    amax_runs<T, 16>(x, amax, columns, run);
  else if (run == 32)
    amax_runs<T, 32>(x, amax, columns, run);
  else
    amax_runs<T, 0>(x, amax, columns, run);
}

template <int mode, bool fast, int scaled, int fixed, class T>
inline void round_runs(const T* x, T* y, const T* scales, const T* inverses, int64_t columns, int64_t run, const Rounder<T>& round,
                       const Stream& stream, int64_t index) {
  const int64_t length = fixed ? fixed : run;
  int64_t block = 0, begin = 0;
  for (; begin + length <= columns; begin += length, ++block)
    round_run<mode, fast, scaled>(x + begin, y + begin, length, round, Scaler<scaled, T>{scales[block], inverses[block]},
                                  stream, index + begin);
  if (begin < columns)
    round_run<mode, fast, scaled>(x + begin, y + begin, columns - begin, round,
                                  Scaler<scaled, T>{scales[block], inverses[block]}, stream, index + begin);
}

template <int mode, bool fast, int scaled, class T>
void round_row(const T* x, T* y, const T* scales, const T* inverses, int64_t columns, int64_t run,
               const Rounder<T>& round, const Draw& draw, int64_t index) {
  const Stream stream(draw, index >> 32);
  if (mode == STOCHASTIC && index >> 32 != (index + columns - 1) >> 32)
    for (int64_t i = 0; i < columns; ++i)
      round_run<mode, fast, scaled>(x + i, y + i, 1, round, Scaler<scaled, T>{scales[i / run], inverses[i / run]},
                                    Stream(draw, (index + i) >> 32), index + i);
  else if (run == 1)
    for (int64_t i = 0; i < columns; ++i) {
      const uint32_t random = mode == STOCHASTIC ? stream(uint32_t(index) + uint32_t(i)) : 0;
      const Scaler<scaled, T> by{scales[i], inverses[i]};
      y[i] = by.up(round.template operator()<mode, fast>(by.down(x[i]), random));
    }
  else if (run == 16)
    round_runs<mode, fast, scaled, 16>(x, y, scales, inverses, columns, run, round, stream, index);
  else if (run == 32)
    round_runs<mode, fast, scaled, 32>(x, y, scales, inverses, columns, run, round, stream, index);
  else
    round_runs<mode, fast, scaled, 0>(x, y, scales, inverses, columns, run, round, stream, index);
}

int64_t parts(int64_t size, int64_t part) { return (size + part - 1) / part; }

// One block of rows at a time, and of it a segment of columns that stays in cache: largest magnitudes, scales, rounding.
template <int mode, bool fast, int scaled, class T>
void round_blocks(const T* x, T* y, const Shape& shape, const Rounder<T>& round, const Draw& draw, const Scale& scale,
                  int threads) {
  const int64_t *d = shape.size, *b = shape.block;
  const int64_t rows = std::min(b[0], d[0]) * std::min(b[1], d[1]) * std::min(b[2], d[2]);
  const int64_t width = std::min(b[3], d[3]);
  // enough columns for whole vectors where each has blocks of its own
  const int64_t least = width == 1 ? 256 : 1;
  const int64_t segment = width * std::max(least, SEGMENT / std::max<int64_t>(1, width * rows));
  const int64_t n1 = parts(d[1], b[1]), n2 = parts(d[2], b[2]), n3 = parts(d[3], segment);
  const int64_t tasks = parts(d[0], b[0]) * n1 * n2 * n3;
  const T tensor = scale.two_level ? amax_flat(x, d[0] * d[1] * d[2] * d[3], threads) : T(0);
  const ScaleFinder<T> find(scale, tensor);
#pragma omp parallel num_threads(threads)
  {
    std::vector<BitsOf<T>> amax(size_t(parts(segment, width)));
    std::vector<T> scales(amax.size()), inverses(amax.size());
#pragma omp for schedule(static)
    for (int64_t task = 0; task < tasks; ++task) {
      const int64_t first = task % n3 * segment, columns = std::min(segment, d[3] - first);
      const int64_t j2 = task / n3 % n2, j1 = task / (n3 * n2) % n1, j0 = task / (n3 * n2 * n1);
      const int64_t end0 = std::min(d[0], (j0 + 1) * b[0]), end1 = std::min(d[1], (j1 + 1) * b[1]);
      const int64_t end2 = std::min(d[2], (j2 + 1) * b[2]);
      const auto each_row = [&](auto&& visit) {
        for (int64_t i0 = j0 * b[0]; i0 < end0; ++i0)
          for (int64_t i1 = j1 * b[1]; i1 < end1; ++i1)
            for (int64_t i2 = j2 * b[2]; i2 < end2; ++i2) visit(((i0 * d[1] + i1) * d[2] + i2) * d[3] + first);
      };
      const int64_t blocks = parts(columns, width);
      std::fill(amax.begin(), amax.begin() + blocks, 0);
      each_row([&](int64_t at) { amax_row(x + at, amax.data(), columns, width); });
      find(amax.data(), scales.data(), blocks);
      for (int64_t i = 0; i < blocks; ++i) inverses[size_t(i)] = inverse_of<scaled>(scales[size_t(i)]);
      each_row([&](int64_t at) {
        round_row<mode, fast, scaled>(x + at, y + at, scales.data(), inverses.data(), columns, width, round, draw, at);
      });
    }
  }
}

// Calls `visit<mode, fast>()` for the run-time mode and grid.
template <class T, class Visit>
int with_mode(int mode, const Rounder<T>& round, Visit&& visit) {
  const auto both = [&](auto chosen) {
    if (round.is_fast(chosen))
      visit(chosen, std::true_type());
    else
      visit(chosen, std::false_type());
    return 0;
  };
  switch (mode) {
    case NEAREST_EVEN: return both(std::integral_constant<int, NEAREST_EVEN>());
    case NEAREST_AWAY: return both(std::integral_constant<int, NEAREST_AWAY>());
    case TOWARD_ZERO: return both(std::integral_constant<int, TOWARD_ZERO>());
    case STOCHASTIC: return both(std::integral_constant<int, STOCHASTIC>());
  }
  return 1;
}

template <class T>
int dispatch_flat(const T* x, T* y, int64_t count, int mode, const Grid& grid, const Draw& draw, T scale, int threads) {
  const Rounder<T> round(grid);
  return with_mode(mode, round, [&](auto chosen, auto fast) {
    if (scale == T(1))
      round_flat<chosen, fast, NONE>(x, y, count, round, draw, scale, threads);
    else if (has_exact_inverse(scale))
      round_flat<chosen, fast, MULTIPLY>(x, y, count, round, draw, scale, threads);
    else
      round_flat<chosen, fast, DIVIDE>(x, y, count, round, draw, scale, threads);
  });
}

template <class T>
int dispatch_blocks(const T* x, T* y, const Shape& shape, int mode, const Grid& grid, const Draw& draw,
                    const Scale& scale, int threads) {
  const int64_t *d = shape.size, *b = shape.block;
  if (d[0] <= b[0] && d[1] <= b[1] && d[2] <= b[2] && d[3] <= b[3]) {  // one block: all threads look for its amax
    const int64_t count = d[0] * d[1] * d[2] * d[3];
    const T amax = amax_flat(x, count, threads);
    const BitsOf<T> bits = as<BitsOf<T>>(amax);
    T found;
    ScaleFinder<T>(scale, amax)(&bits, &found, 1);
    return dispatch_flat(x, y, count, mode, grid, draw, found, threads);
  }
  const Rounder<T> round(grid);
  return with_mode(mode, round, [&](auto chosen, auto fast) {
    if (scale.rule == NEAREST)
      round_blocks<chosen, fast, DIVIDE>(x, y, shape, round, draw, scale, threads);
    else
      round_blocks<chosen, fast, MULTIPLY>(x, y, shape, round, draw, scale, threads);
  });
}

}  // namespace

extern "C" {

// The 31-bit random numbers of `count` elements from `start` on.
void precc_random(uint32_t* numbers, int64_t start, int64_t count, const Draw* draw) {
  for (int64_t i = 0; i < count; ++i) numbers[i] = Stream(*draw, (start + i) >> 32)(uint32_t(start + i));
}

int precc_round_float(const float* x, float* y, int64_t count, int mode, const Grid* grid, const Draw* draw,
                      double scale, int threads) {
  return dispatch_flat<float>(x, y, count, mode, *grid, *draw, float(scale), threads);
}

int precc_round_double(const double* x, double* y, int64_t count, int mode, const Grid* grid, const Draw* draw,
                       double scale, int threads) {
  return dispatch_flat<double>(x, y, count, mode, *grid, *draw, scale, threads);
}

int precc_round_blocks_float(const float* x, float* y, const Shape* shape, int mode, const Grid* grid,
                             const Draw* draw, const Scale* scale, int threads) {
  return dispatch_blocks<float>(x, y, *shape, mode, *grid, *draw, *scale, threads);
}

int precc_round_blocks_double(const double* x, double* y, const Shape* shape, int mode, const Grid* grid,
                              const Draw* draw, const Scale* scale, int threads) {
  return dispatch_blocks<double>(x, y, *shape, mode, *grid, *draw, *scale, threads);
}

}  // extern "C"
