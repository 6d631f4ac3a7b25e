// A product row by row of the weights, each with TILE rows of activations at a time.
#pragma once
#include "kernels.h"

namespace {

// Row<N> for the N rows of activations that are left, Most at the most.
template <template <int> class Row, int Most>
inline const uint8_t* run_tile(int64_t left, const sm_matrix& m, const Activations& x, int64_t row, int64_t b,
                               const uint8_t* p, float* y, int64_t stride) {
  if constexpr (Most > 1)
    if (left < Most) return run_tile<Row, Most - 1>(left, m, x, row, b, p, y, stride);
  return Row<Most>::run(m, x, row, b, p, y, stride);
}

// Row<N>::run(m, x, row, b, p, y, stride): a row of weights, its values from p on, times N rows of activations from b on,
// into y[i * stride]; it returns where the next row's values begin.
template <template <int> class Row, int Tile>
void by_rows(const sm_matrix& m, const Activations& x, int64_t first, int64_t last, float* y, int64_t stride) {
  const uint8_t* p = values_of(m, first);
  for (int64_t row = first; row < last; row++) {
    const uint8_t* next = p;
    for (int64_t b = 0; b < x.count; b += Tile)
      next = run_tile<Row, Tile>(x.count - b, m, x, row, b, p, y + b * stride + row, stride);
    p = next;
  }
}

}  // namespace
