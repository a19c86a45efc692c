// Every kind of running sum, in float64, each rounded to odd before it is rounded to its format: the part of
// accumulate.cpp that computes everything.
#pragma once

#include <vector>

#include "grid.hpp"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

extern "C" {

// Mirrored by ctypes in accumulate.py: keep the order.
struct FastGrid {
  int64_t least, dropped;  // the exponent below which the quantum is constant; bits of the carrier below the quantum
  int64_t negative_zero, random_mask;
  double low, high;
};

struct Job {
  // Where the items, rows and columns of b lie, added up: null where b is [B, K, N].
  const int64_t *items, *depths, *widths;
  int64_t batch, lefts, rows, columns, depth, first;  // B, A (item i meets a[i % A]), M, N, K; first output's number
  int64_t mode, order, chunk, block, compensated, rounds_product, odd, limit, ties, threads;
  int64_t outer_block, outer_mode, outer_odd;  // of an addition of blocks, whose sums all the others describe then; or 0
  int64_t fraction_bits;                       // below the largest exponent of an aligned block
  uint64_t key, slot, random_mask, outer_random_mask;
  double least_a, least_b, least_sum;  // the smallest normal numbers of the operands and of the sum
  Grid sum, product, outer;            // on float64
  FastGrid fast_sum, fast_product;     // on the carrier of the path
};
}

namespace {

enum Order { SEQUENTIAL = 0, PAIRWISE = 1, ALIGNED = 3 };
enum Stage { ADD = 0, MULTIPLY = 1, LEAF = 2, OUTER = 2, CORRECT = 2, RECOVER = 3, ERROR = 4 };

Draw draw_of(const Job& job, int stage) {
  const uint64_t mask = job.outer_block && stage == OUTER ? job.outer_random_mask : job.random_mask;
  return {job.key, job.slot + uint64_t(stage), mask};
}

constexpr int LANES = 16;

// x + y rounded to odd: where a double cannot hold it, the one of the two around it whose last bit is odd.
inline double odd_sum(double x, double y) {
  const double total = x + y, of_y = total - x;
  const double error = (x - (total - of_y)) + (y - of_y);
  const bool inexact = (error > 0) | (error < 0);  // not where an infinite sum made it NaN
  const bool outward = (error > 0) == (total > 0);
  const uint64_t bits = as<uint64_t>(total), move = uint64_t(inexact) & ~bits & 1;
  return as<double>(outward ? bits + move : bits - move);
}

typedef double Eight __attribute__((vector_size(64)));
constexpr int HALVES = LANES / 8;

inline Eight eight(const double* from) {
  Eight x;
  std::memcpy(&x, from, sizeof(x));
  return x;
}

inline Eight truncated(Eight x) {
#if defined(__AVX512F__)
  return Eight(_mm512_roundscale_pd(__m512d(x), _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC));
#else
  for (int j = 0; j < 8; ++j) x[j] = std::trunc(x[j]);
  return x;
#endif
}

// What is aligned counts as no less: a double can then hold all powers of two that occur.
constexpr double LEAST_POWER = 0x1p-960;

// The power of two at or below |x|, at least that of the smallest normal number of a format; 0 for 0.
inline double power_below(double x, double least) {
  const double power = as<double>(as<uint64_t>(x) & 0x7ff0000000000000ull);
  return x == 0 ? 0 : std::max(power, least);
}

// The sums of one row of outputs and up to LANES neighbouring columns.
template <int mode>
struct ExactSums {
  const Job& job;
  const Rounder<double> sum, product, outer;
  const double *a, *b;  // [K] and [K, LANES]
  int64_t output;       // number of the first one
  bool one_stream;      // whether all their random numbers are of one range of 2**32
  std::vector<Stream> streams;
  std::vector<double> powers_a, powers_b;  // of what is aligned

  ExactSums(const Job& job, const double* a, const double* b)
      : job(job), sum(job.sum), product(job.product), outer(job.outer), a(a), b(b) {
    if (job.order != ALIGNED) return;
    powers_a.resize(size_t(job.depth)), powers_b.resize(size_t(job.depth * LANES));
    for (int64_t i = 0; i < job.depth * LANES; ++i) powers_b[size_t(i)] = power_below(b[i], job.least_b);
  }

  void start(int64_t first_output) {
    output = first_output;
    if (job.order == ALIGNED)
      for (int64_t k = 0; k < job.depth; ++k) powers_a[size_t(k)] = power_below(a[k], job.least_a);
    if (mode != STOCHASTIC && job.outer_mode != STOCHASTIC) return;
    const int64_t begin = output * job.depth, last = begin + LANES * job.depth - 1;
    one_stream = begin >> 32 == last >> 32;
    streams.clear();
    for (int stage = ADD; stage <= ERROR; ++stage) streams.emplace_back(draw_of(job, stage), begin >> 32);
  }

  void random(uint32_t* numbers, int64_t k, int stage) const {
    for (int64_t j = 0; j < LANES && !one_stream; ++j) {
      const int64_t index = (output + j) * job.depth + k;
      numbers[j] = Stream(draw_of(job, stage), index >> 32)(uint32_t(index));
    }
    if (!one_stream) return;
    const Stream stream = streams[size_t(stage)];
    const uint32_t begin = uint32_t(output * job.depth + k), step = uint32_t(job.depth);
    for (uint32_t j = 0; j < LANES; ++j) numbers[j] = stream(begin + j * step);
  }

  template <int how = mode>
  void round(double* x, const Rounder<double>& by, int64_t k, int stage) const {
    uint32_t numbers[LANES] = {};
    if (how == STOCHASTIC) random(numbers, k, stage);
    for (int j = 0; j < LANES; ++j) x[j] = by.template operator()<how, GENERAL>(x[j], numbers[j]);
  }

  void add(double* x, const double* y, int64_t k, int stage) const {
    for (int j = 0; j < LANES; ++j) x[j] = job.odd ? odd_sum(x[j], y[j]) : x[j] + y[j];
    round(x, sum, k, stage);
  }

  void add_block(double* x, const double* y, int64_t k) const {
    for (int j = 0; j < LANES; ++j) x[j] = job.outer_odd ? odd_sum(x[j], y[j]) : x[j] + y[j];
    switch (job.outer_mode) {
      case NEAREST_EVEN: return round<NEAREST_EVEN>(x, outer, k, OUTER);
      case NEAREST_AWAY: return round<NEAREST_AWAY>(x, outer, k, OUTER);
      case TOWARD_ZERO: return round<TOWARD_ZERO>(x, outer, k, OUTER);
      default: return round<STOCHASTIC>(x, outer, k, OUTER);
    }
  }

  void term(double* x, int64_t k) const {
    for (int j = 0; j < LANES; ++j) x[j] = a[k] * b[k * LANES + j];
    if (job.rounds_product) round(x, product, k, MULTIPLY);
  }

  void sequential(double* result, int64_t begin, int64_t end) const {
    double total[LANES] = {};  // of its own, so that it can stay in registers
    for (int64_t k = begin; k < end; ++k) {
      double x[LANES];
      term(x, k);
      if (k + 1 == end || (k + 1 - begin) % job.chunk == 0)
        add(total, x, k, ADD);
      else
        for (int j = 0; j < LANES; ++j) total[j] += x[j];
    }
    std::copy_n(total, LANES, result);
  }

  void blocked(double* total) const {
    std::fill(total, total + LANES, 0.0);
    for (int64_t begin = 0; begin < job.depth; begin += job.outer_block) {
      double part[LANES];
      const int64_t end = std::min(begin + job.outer_block, job.depth);
      job.order == ALIGNED ? aligned(part, begin, end) : sequential(part, begin, end);
      add_block(total, part, begin);
    }
  }

  void aligned(double* total, int64_t begin, int64_t end) const {
    std::fill(total, total + LANES, 0.0);
    for (int64_t first = begin; first < end; first += job.block) {
      aligned_step(total, first, std::min(first + job.block, end));
      round(total, sum, first, ADD);
      for (int j = 0; j < LANES; ++j) total[j] += 0.0;  // a zero is +0
    }
  }

  // The exact sum of some terms and the total, all truncated at the same bit.
  void aligned_step(double* total, int64_t begin, int64_t end) const {
    Eight largest[HALVES], to_integer[HALVES], steps[HALVES];
    const double scale = std::ldexp(1.0, int(job.fraction_bits));
    for (int h = 0; h < HALVES; ++h)
      for (int j = 0; j < 8; ++j) largest[h][j] = std::max(LEAST_POWER, power_below(total[8 * h + j], job.least_sum));
    for (int64_t k = begin; k < end; ++k)
      for (int h = 0; h < HALVES; ++h) {
        const Eight power = powers_a[size_t(k)] * eight(&powers_b[size_t(k * LANES + 8 * h)]);
        largest[h] = power > largest[h] ? power : largest[h];
      }
    for (int h = 0; h < HALVES; ++h) {
      to_integer[h] = scale / largest[h];
      steps[h] = truncated(eight(total + 8 * h) * to_integer[h]);
    }
    for (int64_t k = begin; k < end; ++k)
      for (int h = 0; h < HALVES; ++h) steps[h] += truncated(a[k] * eight(b + k * LANES + 8 * h) * to_integer[h]);
    for (int j = 0; j < LANES; ++j) {
      const double sum_of_steps = steps[j / 8][j % 8], quantum = largest[j / 8][j % 8] / scale;
      total[j] = std::isfinite(sum_of_steps) ? sum_of_steps * quantum : special(total[j], begin, end, j);
    }
  }

  // The sum of the infinities and NaN among some terms and the total: one of them makes `steps` infinite or NaN.
  double special(double total, int64_t begin, int64_t end, int j) const {
    double found = std::isfinite(total) ? 0.0 : total;
    for (int64_t k = begin; k < end; ++k) {
      const double term = a[k] * b[k * LANES + j];
      found += std::isfinite(term) ? 0.0 : term;
    }
    return found;
  }

  void pairwise(double* total, int64_t begin, int64_t end) const {
    if (end - begin == 1) {
      term(total, begin);
      return round(total, sum, begin, LEAF);
    }
    const int64_t middle = begin + (end - begin) / 2;
    double right[LANES];
    pairwise(total, begin, middle);
    pairwise(right, middle, end);
    add(total, right, middle, ADD);
  }

  void compensated(double* total) const {
    double error[LANES] = {};
    std::fill(total, total + LANES, 0.0);
    for (int64_t k = 0; k < job.depth; ++k) {
      double corrected[LANES], following[LANES], negative[LANES];
      term(corrected, k);
      for (int j = 0; j < LANES; ++j) negative[j] = -error[j], following[j] = total[j];
      add(corrected, negative, k, CORRECT);
      add(following, corrected, k, ADD);
      for (int j = 0; j < LANES; ++j) negative[j] = -total[j], error[j] = total[j] = following[j];
      add(error, negative, k, RECOVER);
      for (int j = 0; j < LANES; ++j) negative[j] = -corrected[j];
      add(error, negative, k, ERROR);
    }
  }

  void operator()(double* total) const {
    if (job.depth == 0) return std::fill(total, total + LANES, 0.0);
    if (job.compensated) return compensated(total);
    if (job.outer_block) return blocked(total);
    if (job.order == PAIRWISE) return pairwise(total, 0, job.depth);
    if (job.order == ALIGNED) return aligned(total, 0, job.depth);
    sequential(total, 0, job.depth);
  }
};

}  // namespace
