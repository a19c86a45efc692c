// Rounding tensors to a grid, alone or with a scale for each block: the compiled twin of precc/rounding.
//
// A tensor is contiguous and seen as [d0, d1, d2, d3], cut into blocks of [b0, b1, b2, b3]. Results do not depend on
// the number of threads: each element and each block is computed by one thread, from its index alone.

#include <vector>

#include "scales.hpp"

extern "C" {

// Mirrored by ctypes in kernels.py.
struct Shape {
  int64_t size[4], block[4];
};
}

namespace {

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

// Elements of one scale. What the loop needs is passed by value: it stays in registers, whatever `y` is written. `x` is
// `y` itself or apart from it. Not unrolled: GCC would do so with short runs before it sees that they are one vector.
template <int mode, int path, int scaled, class T>
[[gnu::always_inline]] inline void round_run(const T* x, T* y, int64_t count, const Rounder<T> round,
                                             const Scaler<scaled, T> by, const Stream stream, int64_t index) {
#pragma GCC ivdep
#pragma GCC unroll 1
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t random = mode == STOCHASTIC ? stream(uint32_t(index) + uint32_t(i)) : 0;
    const T rounded = by.up(round.template operator()<mode, path>(by.down(x[i]), random));
    y[i] = scaled == NONE && x[i] != x[i] ? x[i] : rounded;  // a NaN that is not scaled keeps its bits
  }
}

constexpr int64_t PIECE = 8192;  // elements of a task
constexpr int64_t SEGMENT = 1024;  // of a block row: read twice, the second time from the first-level cache; a page

template <int mode, int path, int scaled, class T>
void round_flat(const T* x, T* y, int64_t count, const Rounder<T>& round, const Draw& draw, T scale, int threads) {
  const Scaler<scaled, T> by{scale, inverse_of<scaled>(scale)};
  const int64_t pieces = (count + PIECE - 1) / PIECE;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t piece = 0; piece < pieces; ++piece) {  // a power of two long: none crosses a multiple of 2**32
    const int64_t begin = piece * PIECE, size = std::min(PIECE, count - begin);
    round_run<mode, path, scaled>(x + begin, y + begin, size, round, by, Stream(draw, begin >> 32), begin);
  }
}

// The runs of a row, `fixed` long or, for 0, as `run` says.
template <int mode, int path, int scaled, int fixed, class T>
[[gnu::always_inline]] inline void round_runs(const T* x, T* y, const T* scales, const T* inverses, int64_t columns,
                                              int64_t run, const Rounder<T> round, const Stream stream, int64_t index) {
  const int64_t length = fixed ? fixed : run;
  int64_t block = 0, begin = 0;
  for (; begin + length <= columns; begin += length, ++block)
    round_run<mode, path>(x + begin, y + begin, length, round,
                          Scaler<scaled, T>{scales[block], inverses[block]}, stream, index + begin);
  if (begin < columns)
    round_run<mode, path>(x + begin, y + begin, columns - begin, round,
                          Scaler<scaled, T>{scales[block], inverses[block]}, stream, index + begin);
}

// A function of its own: inlined into the loops over blocks, it would compete with them for registers.
template <int mode, int path, int scaled, class T>
[[gnu::noinline]] void round_row(const T* x, T* y, const T* scales, const T* inverses, int64_t columns, int64_t run,
                                 const Rounder<T> round, const Draw& draw, int64_t index) {
  const Stream stream(draw, index >> 32);
  if (mode == STOCHASTIC && index >> 32 != (index + columns - 1) >> 32)
    for (int64_t i = 0; i < columns; ++i)
      round_run<mode, path, scaled>(x + i, y + i, 1, round, Scaler<scaled, T>{scales[i / run], inverses[i / run]},
                                    Stream(draw, (index + i) >> 32), index + i);
  else if (run == 1)
#pragma GCC ivdep
    for (int64_t i = 0; i < columns; ++i) {
      const uint32_t random = mode == STOCHASTIC ? stream(uint32_t(index) + uint32_t(i)) : 0;
      const Scaler<scaled, T> by{scales[i], inverses[i]};
      y[i] = by.up(round.template operator()<mode, path>(by.down(x[i]), random));
    }
  else if (run == 16)
    round_runs<mode, path, scaled, 16>(x, y, scales, inverses, columns, run, round, stream, index);
  else if (run == 32)
    round_runs<mode, path, scaled, 32>(x, y, scales, inverses, columns, run, round, stream, index);
  else
    round_runs<mode, path, scaled, 0>(x, y, scales, inverses, columns, run, round, stream, index);
}

int64_t parts(int64_t size, int64_t part) { return (size + part - 1) / part; }

// One block of rows at a time, and of it a segment of columns that stays in cache: magnitudes, scales, rounding.
template <int mode, int path, int scaled, class T>
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
        round_row<mode, path, scaled>(x + at, y + at, scales.data(), inverses.data(), columns, width, round, draw, at);
      });
    }
  }
}

// Calls `visit<mode, path>()` for the run-time mode and grid.
template <class T, class Visit>
int with_mode(int mode, const Rounder<T>& round, Visit&& visit) {
  const int path = round.path(mode);
  const auto any = [&](auto chosen) {
    if (path == SIMPLE)
      visit(chosen, std::integral_constant<int, SIMPLE>());
    else
      visit(chosen, std::integral_constant<int, GENERAL>());
    return 0;
  };
  const auto nearest = std::integral_constant<int, NEAREST_EVEN>();
  if (path == UNIFORM) return visit(nearest, std::integral_constant<int, UNIFORM>()), 0;
  if (path == SATURATING) return visit(nearest, std::integral_constant<int, SATURATING>()), 0;
  switch (mode) {
    case NEAREST_EVEN: return any(nearest);
    case NEAREST_AWAY: return any(std::integral_constant<int, NEAREST_AWAY>());
    case TOWARD_ZERO: return any(std::integral_constant<int, TOWARD_ZERO>());
    case STOCHASTIC: return any(std::integral_constant<int, STOCHASTIC>());
  }
  return 1;
}

template <class T>
int dispatch_flat(const T* x, T* y, int64_t count, int mode, const Grid& grid, const Draw& draw, T scale, int threads) {
  const Rounder<T> round(grid);
  return with_mode(mode, round, [&](auto chosen, auto path) {
    if (scale == T(1))
      round_flat<chosen, path, NONE>(x, y, count, round, draw, scale, threads);
    else if (has_exact_inverse(scale))
      round_flat<chosen, path, MULTIPLY>(x, y, count, round, draw, scale, threads);
    else
      round_flat<chosen, path, DIVIDE>(x, y, count, round, draw, scale, threads);
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
  return with_mode(mode, round, [&](auto chosen, auto path) {
    if (scale.rule == NEAREST)
      round_blocks<chosen, path, DIVIDE>(x, y, shape, round, draw, scale, threads);
    else
      round_blocks<chosen, path, MULTIPLY>(x, y, shape, round, draw, scale, threads);
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
