// Products of several matrices with the same input, one after another in one parallel region.
#pragma once
#include <memory>

#include "kernels.h"

// Rows of activations, padded once and brought into the form of each format that asks.
struct Input {
  // x [count][cols]; `rounded` if its values are bfloat16 already
  Input(const float* x, int64_t count, int64_t cols, bool rounded);
  void prepare(int64_t format);
  void prepare_tiles();
  // whether its rows are multiplied together, by tiles
  bool together(int64_t format) const;

  int64_t words;
  bool alone = false;  // one row after another, whatever that costs
  int32_t prepared_offset = 0;
  std::unique_ptr<float[]> padded, scale;
  std::unique_ptr<uint16_t[]> bf16, tiles;
  std::unique_ptr<int8_t[]> q;
  std::unique_ptr<int32_t[]> init;
  Activations activations = {};
};

// The chosen instruction set.
extern const Kernels kernels;

// y[i] [count of x][rows of matrices[i]], at most 8 matrices
void multiply(const sm_matrix* const* matrices, float* const* y, int64_t count, Input& x, int64_t threads);

// y [count of x][total rows]
void multiply_rows(const sm_rows& rows, float* y, Input& x, int64_t threads);
