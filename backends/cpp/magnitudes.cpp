// Counting magnitudes by their bits: the compiled twin of precc/analysis/magnitude_counts.py.
//
// A magnitude is the bits of a float without its sign, an unsigned integer in the order of the magnitudes.

#include <algorithm>
#include <cstdint>
#include <vector>

extern "C" {

// Mirrored by ctypes in magnitudes.py: keep the order.
struct Summary {
  int64_t nonfinite, smallest, largest;  // the last two of the finite magnitudes but 0; 0 where there is none
};
}

namespace {

constexpr int64_t BINS = 1 << 15;
constexpr int64_t PIECE = 1 << 20;  // elements that a thread counts before it adds to the sums of all: far below 2**32
constexpr int64_t CHUNK = 1024;     // elements whose bins stay in the first-level cache
constexpr int TABLES = 4;           // equal neighbours are counted in different ones: none waits for the last store

template <class U>
constexpr U MAGNITUDE = U(U(-1) >> 1);

// Last bits, which have no bins.
template <class U>
constexpr int DROPPED = sizeof(U) == 8 ? 49 : sizeof(U) == 4 ? 17 : 0;

template <class U>
struct Found {
  U below_smallest = U(-1), largest = 0;  // the first means something only where the second is not 0

  void see(const U* x, int64_t count, const U infinity) {
    U least = U(-1), most = 0;
    for (int64_t i = 0; i < count; ++i) {
      const U size = x[i] & MAGNITUDE<U>, below = size - 1;  // of 0, the largest number
      least = below < least ? below : least;
      most = size > most ? size : most;
    }
    if (most >= infinity) {
      most = 0;
      for (int64_t i = 0; i < count; ++i) {
        const U size = x[i] & MAGNITUDE<U>;
        if (size < infinity && size > most) most = size;
      }
    }
    add({least, most});
  }

  void add(const Found& other) {
    below_smallest = std::min(below_smallest, other.below_smallest);
    largest = std::max(largest, other.largest);
  }
};

template <class U>
inline uint16_t bin_of(U size) {
  constexpr int dropped = DROPPED<U>;
  constexpr U last = U((U(1) << dropped) - 1);
  return uint16_t(dropped ? U(size >> dropped) + U(U(size + last) >> dropped) : size);
}

// What is not finite comes into the bin of infinity.
template <class U>
void sort_into_bins(const U* x, uint16_t* bins, int64_t count, const U infinity) {
  for (int64_t i = 0; i < count; ++i) {
    const U size = x[i] & MAGNITUDE<U>;
    bins[i] = bin_of(size < infinity ? size : infinity);
  }
}

template <class U>
void count_piece(const U* x, int64_t count, const U infinity, uint32_t* tables, Found<U>& found) {
  uint16_t bins[CHUNK];
  for (int64_t begin = 0; begin < count; begin += CHUNK) {
    const int64_t size = std::min(CHUNK, count - begin);
    found.see(x + begin, size, infinity);
    sort_into_bins(x + begin, bins, size, infinity);
    int64_t i = 0;
    for (; i + TABLES <= size; i += TABLES)
      for (int table = 0; table < TABLES; ++table) ++tables[bins[i + table] * TABLES + table];
    for (; i < size; ++i) ++tables[bins[i] * TABLES];
  }
}

// Add a stretch of the tables to the sums, and clear it.
void add_bins(uint32_t* tables, int64_t* sums, int64_t first, int64_t last) {
  for (int64_t bin = first; bin <= last; ++bin) {
    for (int table = 0; table < TABLES; ++table) sums[bin] += tables[bin * TABLES + table];
    std::fill_n(tables + bin * TABLES, TABLES, 0);
  }
}

// `sums` has a number of each bin, 0 at first. The tables of a thread are left empty for its next tensor.
template <class U>
void count_all(const U* x, int64_t count, const U infinity, int64_t* sums, Summary& summary, int threads) {
  const int64_t pieces = (count + PIECE - 1) / PIECE;
  Found<U> all;
#pragma omp parallel for schedule(static) num_threads(int(std::min<int64_t>(threads, std::max<int64_t>(pieces, 1))))
  for (int64_t piece = 0; piece < pieces; ++piece) {
    static thread_local std::vector<uint32_t> tables(size_t(TABLES * BINS));
    Found<U> found;
    count_piece(x + piece * PIECE, std::min(PIECE, count - piece * PIECE), infinity, tables.data(), found);
#pragma omp critical
    {
      add_bins(tables.data(), sums, 0, 0);
      add_bins(tables.data(), sums, bin_of(infinity), bin_of(infinity));
      if (found.largest) add_bins(tables.data(), sums, bin_of(U(found.below_smallest + 1)), bin_of(found.largest));
      all.add(found);
    }
  }
  summary.nonfinite = sums[bin_of(infinity)];
  sums[bin_of(infinity)] = 0;
  summary.largest = int64_t(all.largest);
  summary.smallest = all.largest ? int64_t(U(all.below_smallest + 1)) : 0;
}

// How many have ``0 < |x| <= end`` with end finite; of both signs for 0, of positive ones for 1, of negative for -1.
template <class U>
int64_t at_most(const U* x, int64_t count, const U end, int sign, int threads) {
  const U top = U(U(1) << (8 * sizeof(U) - 1));
  const U kept = sign ? U(-1) : U(~top), flipped = sign < 0 ? top : U(0);  // of a wrong sign, the first bit stays
  int64_t found = 0;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(+ : found) if (count > PIECE)
  for (int64_t i = 0; i < count; ++i) found += U(U((x[i] & kept) ^ flipped) - 1) < end;
  return found;
}

}  // namespace

extern "C" {

#define PRECC_COUNTING(BITS)                                                                                        \
  void precc_magnitudes_##BITS(const uint##BITS##_t* x, int64_t count, int64_t infinity, int64_t* sums,             \
                               Summary* summary, int threads) {                                                   \
    count_all(x, count, uint##BITS##_t(infinity), sums, *summary, threads);                                        \
  }                                                                                                                 \
  int64_t precc_at_most_##BITS(const uint##BITS##_t* x, int64_t count, int64_t end, int sign, int threads) {        \
    return at_most(x, count, uint##BITS##_t(end), sign, threads);                                                   \
  }
PRECC_COUNTING(16)
PRECC_COUNTING(32)
PRECC_COUNTING(64)

}  // extern "C"
