// Matrix products with a rounded running sum: the compiled twin of precc/accumulation/tensor_ops.py.
//
// `exact_tile` computes everything, in float64, every sum rounded to odd before it is rounded to its format. The fast
// paths compute sums one after the other (or in blocks) without that: accumulate_paths.py lets them through only where
// it has found, from the bits that the operands use, that the machine's own sum then rounds to the same value. Where a
// value leaves the format on a path that cannot show it, the tile is computed again by `exact_tile`. Results depend
// neither on threads nor on paths.

#include "exact_sums.hpp"

extern "C" {

// Mirrored by ctypes in accumulate.py: keep the order.
struct Facts {
  int64_t least_bit, width;  // exponent of the lowest bit that is set in any value; bits of the longest significand
  double amax;               // largest magnitude; infinite or NaN if any value is
};
}

namespace {

enum Limit { UNREACHED = 0, CLAMPED = 1, WATCHED = 2 };

// --- everything, in float64 ---------------------------------------------------------------------------------------

// Row k of b from a column on, `width` of its values.
template <class To, class T>
void copy_row(To* to, const Job& job, const T* b, int64_t item, int64_t k, int64_t column, int64_t width) {
  if (!job.items) {
    std::copy_n(b + (item * job.depth + k) * job.columns + column, width, to);
    return;
  }
  const T* from = b + job.items[item] + job.depths[k];
  for (int64_t j = 0; j < width; ++j) to[j] = To(from[job.widths[column + j]]);
}

// Outputs [row, row + rows) x [column, column + LANES) of one product of the batch.
template <int mode, class T>
void exact_tile(const Job& job, const T* a, const T* b, T* c, int64_t item, int64_t row, int64_t rows, int64_t column) {
  const int64_t N = job.columns, K = job.depth, width = std::min<int64_t>(LANES, N - column);
  if (width <= 0) return;
  std::vector<double> left(static_cast<size_t>(K)), right(static_cast<size_t>(K * LANES));
  for (int64_t k = 0; k < K; ++k) copy_row(&right[size_t(k * LANES)], job, b, item, k, column, width);
  ExactSums<mode> sums(job, left.data(), right.data());
  for (int64_t i = row; i < row + rows; ++i) {
    const int64_t output = (item * job.rows + i) * N + column;
    std::copy_n(a + (item % job.lefts * job.rows + i) * K, K, left.begin());
    double total[LANES];
    sums.start(job.first + output);
    sums(total);
    for (int64_t j = 0; j < width; ++j) c[output + j] = T(total[j]);
  }
}

template <class T>
void exact_by_mode(const Job& job, const T* a, const T* b, T* c, int64_t item, int64_t row, int64_t rows,
                   int64_t column) {
  switch (job.mode) {
    case NEAREST_EVEN: return exact_tile<NEAREST_EVEN>(job, a, b, c, item, row, rows, column);
    case NEAREST_AWAY: return exact_tile<NEAREST_AWAY>(job, a, b, c, item, row, rows, column);
    case TOWARD_ZERO: return exact_tile<TOWARD_ZERO>(job, a, b, c, item, row, rows, column);
    default: return exact_tile<STOCHASTIC>(job, a, b, c, item, row, rows, column);
  }
}

constexpr int64_t ROWS = 64;  // of a task

template <class T>
int exact_all(const Job& job, const T* a, const T* b, T* c) {
  const int64_t panels = (job.columns + LANES - 1) / LANES, groups = (job.rows + ROWS - 1) / ROWS;
#pragma omp parallel for schedule(dynamic) num_threads(job.threads)
  for (int64_t task = 0; task < job.batch * panels * groups; ++task) {
    const int64_t row = task % groups * ROWS, column = task / groups % panels * LANES;
    exact_by_mode(job, a, b, c, task / (groups * panels), row, std::min(ROWS, job.rows - row), column);
  }
  return 0;
}

// --- the fast paths: vectors of 64 bytes ------------------------------------------------------------------------

template <class T>
struct Vector {
  using Bits = typename Carrier<T>::Bits;
  typedef T Floats __attribute__((vector_size(64)));
  typedef Bits Words __attribute__((vector_size(64)));
  static constexpr int size = 64 / sizeof(T);
};
template <class T>
using Floats = typename Vector<T>::Floats;
template <class T>
using Words = typename Vector<T>::Words;

typedef uint32_t Half __attribute__((vector_size(32)));  // as many numbers as there are doubles

template <class V, class T>
inline V all(T value) {
  return value - V{};
}

// Where the compiler would take more instructions than the processor needs. On the fast paths a b is exact: a multiply
// and an add give what a fused one does.
#if defined(__AVX512F__)
typedef Floats<float> Single;
typedef Floats<double> Double;
typedef Words<float> Words32;
typedef Words<double> Words64;
inline Single fused(Single a, Single b, Single c) { return Single(_mm512_fmadd_ps(__m512(a), __m512(b), __m512(c))); }
inline Double fused(Double a, Double b, Double c) {
  return Double(_mm512_fmadd_pd(__m512d(a), __m512d(b), __m512d(c)));
}
inline Single larger(Single a, Single b) { return Single(_mm512_max_ps(__m512(a), __m512(b))); }
inline Double larger(Double a, Double b) { return Double(_mm512_max_pd(__m512d(a), __m512d(b))); }
inline Single smaller(Single a, Single b) { return Single(_mm512_min_ps(__m512(a), __m512(b))); }
inline Double smaller(Double a, Double b) { return Double(_mm512_min_pd(__m512d(a), __m512d(b))); }
inline Words32 larger(Words32 a, Words32 b) { return Words32(_mm512_max_epu32(__m512i(a), __m512i(b))); }
inline Words64 larger(Words64 a, Words64 b) { return Words64(_mm512_max_epu64(__m512i(a), __m512i(b))); }
template <class V>
inline V or_masked(V a, V b, V mask) {
  return V(_mm512_ternarylogic_epi64(__m512i(a), __m512i(b), __m512i(mask), 0xF8));
}
inline bool any(Words64 mask) { return _mm512_test_epi64_mask(__m512i(mask), __m512i(mask)) != 0; }
inline Words64 widened(Half x) { return Words64(_mm512_cvtepu32_epi64(__m256i(x))); }
inline Double add_if_less(Double x, Double y, Double size, Double bound) {
  const __mmask8 less = _mm512_cmp_pd_mask(__m512d(size), __m512d(bound), _CMP_LT_OQ);
  return Double(_mm512_mask_add_pd(__m512d(x), less, __m512d(x), __m512d(y)));
}
#else
template <class V>
inline V fused(V a, V b, V c) {
  return a * b + c;
}
template <class V>
inline V larger(V a, V b) {
  return a > b ? a : b;
}
template <class V>
inline V smaller(V a, V b) {
  return a < b ? a : b;
}
template <class V>
inline V or_masked(V a, V b, V mask) {
  return a | (b & mask);
}
inline bool any(Words<double> mask) {
  uint64_t found = 0;
  for (int i = 0; i < Vector<double>::size; ++i) found |= mask[i];
  return found != 0;
}
inline Words<double> widened(Half x) { return __builtin_convertvector(x, Words<double>); }
template <class V>
inline V add_if_less(V x, V y, V size, V bound) {
  return size < bound ? x + y : x;
}
#endif

// What lies beyond the ends of a format, of which the fast paths know only that it is there.
template <class T>
struct Watch {
  Floats<T> high{}, low{};
  bool beyond(const FastGrid& grid) const {
    bool found = false;
    for (int i = 0; i < Vector<T>::size; ++i) found |= high[i] > T(grid.high) || low[i] < T(grid.low);
    return found;
  }
};

template <class T, int limit>
inline Floats<T> limited(Floats<T> x, Floats<T> low, Floats<T> high, Watch<T>& watch) {
  if (limit == CLAMPED) return smaller(larger(x, low), high);
  if (limit == WATCHED) watch.high = larger(x, watch.high), watch.low = smaller(x, watch.low);
  return x;
}

// To nearest even: the machine rounds to the quantum when 3/2 of a power of two is added whose last bit that is.
// With `ties` the machine's own sum may be inexact: where it lies halfway between two values, its error decides.
template <class T, int limit_, bool ties_ = false>
struct Nearest {
  static constexpr int limit = limit_, M = Carrier<T>::mantissa_bits;
  static constexpr bool ties = ties_;
  struct Noise {};
  Words<T> exponents, least, to_magic, sign;
  Floats<T> low, high;

  explicit Nearest(const FastGrid& grid) {
    using Bits = typename Carrier<T>::Bits;
    exponents = all<Words<T>>(Bits(Carrier<T>::magnitude >> M << M));
    least = all<Words<T>>(Bits(grid.least + Carrier<T>::bias) << M);
    to_magic = all<Words<T>>((Bits(grid.dropped) << M) + (Bits(1) << (M - 1)));
    sign = all<Words<T>>(grid.negative_zero ? Bits(~Carrier<T>::magnitude) : Bits(0));
    low = all<Floats<T>>(T(grid.low)), high = all<Floats<T>>(T(grid.high));
  }

  inline Floats<T> operator()(Floats<T> x, const Noise&, int64_t, Watch<T>& watch) const {
    const Floats<T> magic = Floats<T>(larger(Words<T>(x) & exponents, least) + to_magic);
    const Floats<T> rounded = Floats<T>(or_masked(Words<T>((x + magic) - magic), Words<T>(x), sign));
    return limited<T, limit>(rounded, low, high, watch);
  }

  // x + y, rounded once.
  inline Floats<T> add(Floats<T> x, Floats<T> y, Watch<T>& watch) const {
    const Floats<T> total = x + y;
    const Words<T> magic = larger(Words<T>(total) & exponents, least) + to_magic;
    Floats<T> rounded = (total + Floats<T>(magic)) - Floats<T>(magic);
    const Floats<T> rest = total - rounded;
    const Words<T> half = (magic & exponents) - all<Words<T>>(typename Carrier<T>::Bits(M + 1) << M);
    const Words<T> tie = Words<T>((Words<T>(rest) & ~all<Words<T>>(~Carrier<T>::magnitude)) == half);
    if (any(tie)) rounded += Floats<T>(Words<T>(rest + rest) & tie & beyond(x, y, total, rest));
    rounded = Floats<T>(or_masked(Words<T>(rounded), Words<T>(total), sign));
    return limited<T, limit>(rounded, low, high, watch);
  }

  // Where the exact sum of x and y is further than `total` on the side to which `rest` points.
  static Words<T> beyond(Floats<T> x, Floats<T> y, Floats<T> total, Floats<T> rest) {
    const Floats<T> of_y = total - x, error = (x - (total - of_y)) + (y - of_y);
    return Words<T>((error > 0) & (rest > 0)) | Words<T>((error < 0) & (rest < 0));
  }

  static Noise noise(const Job&, int, int64_t) { return {}; }
};

// Stochastic, in float64: below the normal numbers 2**emin is added, so that the bits to drop are the same everywhere.
template <int limit_>
struct Stochastic {
  static constexpr int limit = limit_;
  static constexpr bool ties = false;
  static constexpr int size = Vector<double>::size;
  struct Noise {
    Half position;   // of term 0, with the first half of the stream's state
    uint32_t other;  // the second half
  };
  Words<double> keep, sign;
  Floats<double> normal, high;
  uint32_t used;
  int shift;

  explicit Stochastic(const FastGrid& grid) {
    keep = all<Words<double>>(~uint64_t(0) << grid.dropped);
    sign = all<Words<double>>(~Carrier<double>::magnitude);
    normal = all<Floats<double>>(std::ldexp(1.0, int(grid.least)));
    high = all<Floats<double>>(grid.high);
    used = uint32_t(grid.random_mask) << 1, shift = int(grid.dropped) - 32;
  }

  // The random number in the bits that are dropped.
  inline Words<double> random(const Noise& noise, int64_t k) const {
    Half x = noise.position + uint32_t(k) * 0x9e3779b9u;
    x = ((x ^ (x >> 16)) * 0x7feb352du) ^ noise.other;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return widened((x ^ (x >> 16)) & used) << shift;
  }

  inline Floats<double> operator()(Floats<double> x, const Noise& noise, int64_t k, Watch<double>& watch) const {
    const Floats<double> size = Floats<double>(Words<double>(x) & ~sign);
    const Floats<double> lifted = add_if_less(size, normal, size, normal);
    const Floats<double> cut = Floats<double>((Words<double>(lifted) + random(noise, k)) & keep);
    Floats<double> rounded = add_if_less(cut, -normal, size, normal);
    if (limit == CLAMPED) rounded = smaller(rounded, high);
    if (limit == WATCHED) watch.high = larger(rounded, watch.high);
    return Floats<double>(or_masked(Words<double>(rounded), Words<double>(x), sign));
  }

  static Noise noise(const Job& job, int stage, int64_t output) {
    Noise noise;
    const int64_t begin = output * job.depth;
    const Stream stream(draw_of(job, stage), begin >> 32);
    const uint32_t first = uint32_t(begin), step = uint32_t(job.depth);
    for (int j = 0; j < size; ++j) noise.position[j] = (first + uint32_t(j) * step) * 0x9e3779b9u + stream.a;
    noise.other = stream.b;
    return noise;
  }
};

constexpr int HIGH = 4, WIDE = 2;  // rows and vectors of a tile: sums that do not wait for each other
constexpr int64_t DEPTH = 256;     // terms of a packed panel

template <class T, class Round, bool rounds_product>
struct FastSums {
  static constexpr int size = Vector<T>::size, COLUMNS = WIDE * size;
  using Sums = Floats<T>[HIGH][WIDE];
  using Noise = typename Round::Noise;
  const Job& job;
  const Round sum, product;

  explicit FastSums(const Job& job) : job(job), sum(job.fast_sum), product(job.fast_product) {}

  struct Tile {
    const T* a[HIGH];
    Sums total, outer;
    Noise noise[3][HIGH][WIDE];
    bool failed;
  };

  void start(Tile& tile, const T* a, int64_t item, int64_t row, int64_t column) const {
    for (int i = 0; i < HIGH; ++i) {
      const int64_t r = std::min(row + i, job.rows - 1);  // a row that is not there repeats the last
      tile.a[i] = a + (item % job.lefts * job.rows + r) * job.depth;
      const int64_t output = job.first + (item * job.rows + r) * job.columns + column, begin = output * job.depth;
      tile.failed |= job.mode == STOCHASTIC && begin >> 32 != (begin + COLUMNS * job.depth - 1) >> 32;
      for (int j = 0; j < WIDE; ++j) {
        for (int stage = ADD; stage <= OUTER; ++stage)
          tile.noise[stage][i][j] = Round::noise(job, stage, output + j * size);
        tile.total[i][j] = tile.outer[i][j] = Floats<T>{};
      }
    }
  }

  // Terms [begin, end); `b` points to those of `begin`.
  void run(Tile& tile, const T* b, int64_t begin, int64_t end) const {
    Floats<T> total[HIGH][WIDE];
    std::memcpy(&total, &tile.total, sizeof(total));
    Watch<T> sums, products;
    for (int64_t k = begin; k < end; ++k, b += COLUMNS) {
      Floats<T> right[WIDE];
      std::memcpy(&right, b, sizeof(right));
#pragma GCC unroll 4
      for (int i = 0; i < HIGH; ++i) {
        const Floats<T> left = all<Floats<T>>(tile.a[i][k]);
#pragma GCC unroll 2
        for (int j = 0; j < WIDE; ++j) {
          if constexpr (Round::ties) {
            const Floats<T> term = left * right[j];
            const Noise& noise = tile.noise[MULTIPLY][i][j];
            total[i][j] = sum.add(total[i][j], rounds_product ? product(term, noise, k, products) : term, sums);
          } else {
            if (rounds_product)
              total[i][j] += product(left * right[j], tile.noise[MULTIPLY][i][j], k, products);
            else
              total[i][j] = fused(left, right[j], total[i][j]);
            total[i][j] = sum(total[i][j], tile.noise[ADD][i][j], k, sums);
          }
        }
      }
    }
    std::memcpy(&tile.total, &total, sizeof(total));
    if (Round::limit != WATCHED) return;
    tile.failed |= sums.beyond(job.fast_sum) || (rounds_product && products.beyond(job.fast_product));
  }

  void end_block(Tile& tile, int64_t begin) const {
    Watch<T> watch;
    for (int i = 0; i < HIGH; ++i)
      for (int j = 0; j < WIDE; ++j) {
        if constexpr (Round::ties)
          tile.outer[i][j] = sum.add(tile.outer[i][j], tile.total[i][j], watch);
        else
          tile.outer[i][j] = sum(tile.outer[i][j] + tile.total[i][j], tile.noise[OUTER][i][j], begin, watch);
        tile.total[i][j] = Floats<T>{};
      }
    if (Round::limit == WATCHED) tile.failed |= watch.beyond(job.fast_sum);
  }

  // One panel of terms; blocks may end in it.
  void extend(Tile& tile, const T* panel, int64_t begin, int64_t end) const {
    const int64_t block = job.outer_block ? job.outer_block : job.depth;
    for (int64_t k = begin; k < end && !tile.failed;) {
      const int64_t stop = std::min(end, (k / block + 1) * block);
      run(tile, panel + (k - begin) * COLUMNS, k, stop);
      if (job.outer_block && (stop == job.depth || stop % block == 0)) end_block(tile, (stop - 1) / block * block);
      k = stop;
    }
  }

  void finish(Tile& tile, const T* a, const T* b, T* c, int64_t item, int64_t row, int64_t column) const {
    const int64_t rows = std::min<int64_t>(HIGH, job.rows - row);
    const int64_t width = std::min<int64_t>(COLUMNS, job.columns - column);
    if (tile.failed) {
      for (int64_t j = 0; j < width; j += LANES) exact_by_mode(job, a, b, c, item, row, rows, column + j);
      return;
    }
    const Sums& sums = job.outer_block ? tile.outer : tile.total;
    for (int64_t i = 0; i < rows; ++i)
      std::memcpy(c + (item * job.rows + row + i) * job.columns + column, &sums[i], size_t(width) * sizeof(T));
  }

  void task(const T* a, const T* b, T* c, int64_t item, int64_t row, int64_t rows, int64_t column) const {
    alignas(64) T panel[DEPTH * COLUMNS] = {};
    Tile tiles[ROWS / HIGH] = {};
    const int64_t end_row = std::min(row + rows, job.rows), width = std::min<int64_t>(COLUMNS, job.columns - column);
    for (int64_t i = row; i < end_row; i += HIGH) start(tiles[(i - row) / HIGH], a, item, i, column);
    for (int64_t begin = 0; begin < job.depth; begin += DEPTH) {
      const int64_t end = std::min(begin + DEPTH, job.depth);
      for (int64_t k = begin; k < end; ++k) copy_row(panel + (k - begin) * COLUMNS, job, b, item, k, column, width);
      for (int64_t i = row; i < end_row; i += HIGH) extend(tiles[(i - row) / HIGH], panel, begin, end);
    }
    for (int64_t i = row; i < end_row; i += HIGH) finish(tiles[(i - row) / HIGH], a, b, c, item, i, column);
  }
};

template <class T, class Round, bool rounds_product>
int fast_all(const Job& job, const T* a, const T* b, T* c) {
  const FastSums<T, Round, rounds_product> sums(job);
  const int64_t width = sums.COLUMNS;
  const int64_t panels = (job.columns + width - 1) / width;
  int64_t rows = ROWS;  // of a task: fewer where there would be no work for all threads
  while (rows > HIGH && job.batch * panels * ((job.rows + rows - 1) / rows) < 4 * job.threads) rows /= 2;
  const int64_t groups = (job.rows + rows - 1) / rows;
#pragma omp parallel for schedule(dynamic) num_threads(job.threads)
  for (int64_t task = 0; task < job.batch * panels * groups; ++task)
    sums.task(a, b, c, task / (groups * panels), task % groups * rows, rows, task / groups % panels * width);
  return 0;
}

template <class T, class Round>
int fast_by_product(const Job& job, const T* a, const T* b, T* c) {
  return job.rounds_product ? fast_all<T, Round, true>(job, a, b, c) : fast_all<T, Round, false>(job, a, b, c);
}

template <class T, bool ties>
int nearest_by_limit(const Job& job, const T* a, const T* b, T* c) {
  switch (job.limit) {
    case UNREACHED: return fast_by_product<T, Nearest<T, UNREACHED, ties>>(job, a, b, c);
    case CLAMPED: return fast_by_product<T, Nearest<T, CLAMPED, ties>>(job, a, b, c);
    default: return fast_by_product<T, Nearest<T, WATCHED, ties>>(job, a, b, c);
  }
}

int fast_by_mode(const Job& job, const float* a, const float* b, float* c) {
  return job.mode == NEAREST_EVEN && !job.ties ? nearest_by_limit<float, false>(job, a, b, c) : 1;
}
int fast_by_mode(const Job& job, const double* a, const double* b, double* c) {
  if (job.mode == NEAREST_EVEN)
    return job.ties ? nearest_by_limit<double, true>(job, a, b, c) : nearest_by_limit<double, false>(job, a, b, c);
  if (job.mode != STOCHASTIC) return 1;
  return job.limit == CLAMPED ? fast_by_product<double, Stochastic<CLAMPED>>(job, a, b, c)
                              : fast_by_product<double, Stochastic<WATCHED>>(job, a, b, c);
}

// --- which bits a tensor uses -----------------------------------------------------------------------------------

template <class T>
void find_facts(const T* x, int64_t count, Facts* facts) {
  using Bits = typename Carrier<T>::Bits;
  using Int = std::make_signed_t<Bits>;
  constexpr int M = Carrier<T>::mantissa_bits, bias = Carrier<T>::bias;
  const Bits neutral = Bits(2 * bias) << M;  // in the place of zeros: a large power of two
  Int least = std::numeric_limits<Int>::max(), zeros = M;
  Bits amax = 0;
  for (int64_t i = 0; i < count; ++i) {
    const Bits magnitude = as<Bits>(x[i]) & Carrier<T>::magnitude, bits = magnitude ? magnitude : neutral;
    const Bits hidden = Bits(bits >> M ? Bits(1) << M : 0);
    const Bits significand = (bits & ((Bits(1) << M) - 1)) | hidden;
    const Int lowest = Int(significand & (Bits(0) - significand));
    const Int trailing = Int(as<Bits>(T(lowest)) >> M) - bias;
    least = std::min<Int>(least, std::max<Int>(Int(bits >> M), 1) - bias - M + trailing);
    zeros = std::min<Int>(zeros, trailing);
    amax = std::max<Bits>(amax, magnitude);
  }
  *facts = {int64_t(least), M + 1 - int64_t(zeros), double(as<T>(amax))};
}

}  // namespace

// `fast` asks for the fast path of the tensors' own type. Not 0: there is none for this mode.
extern "C" int precc_accumulate_float(const float* a, const float* b, float* c, const Job* job, int fast) {
  return fast ? fast_by_mode(*job, a, b, c) : exact_all(*job, a, b, c);
}
extern "C" int precc_accumulate_double(const double* a, const double* b, double* c, const Job* job, int fast) {
  return fast ? fast_by_mode(*job, a, b, c) : exact_all(*job, a, b, c);
}
extern "C" void precc_facts_float(const float* x, int64_t count, Facts* facts) { find_facts(x, count, facts); }
extern "C" void precc_facts_double(const double* x, int64_t count, Facts* facts) { find_facts(x, count, facts); }
