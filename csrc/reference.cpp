// Plain C++, one weight at a time: what every other instruction set is tested against.
#include <math.h>

#include "kernels.h"
#include "divergence.h"
#include "exchange.h"
#include "move.h"
#include "plain.h"

namespace {

void quantise(const float* x, int64_t words, int32_t offset, int8_t* q, float* scale, int32_t* init) {
  for (int64_t lane = 0; lane < words * 16; lane++) {
    float largest = 0;
    for (int j = 0; j < 4; j++) largest = fmaxf(largest, fabsf(x[4 * lane + j]));
    float up = largest > LEAST ? 127.0f / largest : 0.0f;
    int32_t sum = 0;
    for (int j = 0; j < 4; j++) sum += q[4 * lane + j] = int8_t(nearbyintf(x[4 * lane + j] * up));
    scale[lane] = largest / 127.0f;
    init[lane] = -offset * sum;
  }
}

// Calls weight(row, column, value) for every kept weight of the rows, in order.
template <class Each>
void each_weight(const sm_matrix& m, int64_t first, int64_t last, Each weight) {
  int64_t words = words_of(m), half = (words + 1) / 2;
  const uint8_t* p = values_of(m, first);
  for (int64_t row = first; row < last; row++) {
    const uint16_t* scales = m.scales ? m.scales + row * words : nullptr;
    int64_t left = 0, right = 0;
    for (int64_t w = 0; w < words; w++) {
      uint64_t mask = m.mask ? load64(m.mask + row * words + w) : ~0ull;
      float scale = scales ? from_bf16(scales[w]) : 1.0f;
      for (int j = 0; j < 64 && 64 * w + j < m.cols; j++) {
        if (!(mask >> j & 1)) continue;
        int64_t column = 64 * w + j;
        float value = 0;
        switch (m.format) {
          case SM_DENSE_BF16:
          case SM_SHARED_BF16: value = from_bf16(load16(m.values + 2 * (row * m.cols + column))); break;
          case SM_DENSE_INT8:
          case SM_SHARED_INT8: value = scale * (m.values[row * words * 64 + column] - 128); break;
          case SM_BF16: value = from_bf16(load16(p)); p += 2; break;
          case SM_INT8: value = scale * (*p++ - 128); break;
          case SM_INT4: value = scale * (w < half ? (p[left++] & 15) - 8 : (p[right++] >> 4) - 8); break;
        }
        weight(row, column, value);
      }
    }
    if (m.format == SM_INT4) p += left > right ? left : right;
  }
}

void product(const sm_matrix& m, const Activations& x, int64_t first, int64_t last, float* y, int64_t stride) {
  bool integers = m.scales != nullptr;
  for (int64_t b = 0; b < x.count; b++) {
    const float* values = x.f32 + b * x.words * 64;
    const int8_t* q = x.q + b * x.words * 64;
    const float* scale = x.scale + b * x.words * 16;
    for (int64_t row = first; row < last; row++) y[b * stride + row] = 0;
    each_weight(m, first, last, [&](int64_t row, int64_t column, float value) {
      y[b * stride + row] += value * (integers ? scale[column / 4] * q[column] : values[column]);
    });
  }
}

void unpack(const sm_matrix& m, int64_t first, int64_t last, uint16_t* out) {
  for (int64_t i = 0; i < (last - first) * m.cols; i++) out[i] = 0;
  each_weight(m, first, last, [&](int64_t row, int64_t column, float value) {
    out[(row - first) * m.cols + column] = to_bf16(value);
  });
}

void pack(const sm_matrix& m, const uint16_t* dense, int64_t first, int64_t last) {
  pack_on(m, dense, dense, first, last);
}

}  // namespace

void pack_on(const sm_matrix& m, const uint16_t* dense, const uint16_t* grid, int64_t first, int64_t last) {
  int64_t words = words_of(m), half = (words + 1) / 2;
  uint8_t* p = const_cast<uint8_t*>(values_of(m, first));
  for (int64_t row = first; row < last; row++) {
    int64_t left = 0, right = 0;
    if (m.format == SM_INT4) {
      for (int64_t w = 0; w < words; w++)
        (w < half ? left : right) += __builtin_popcountll(load64(m.mask + row * words + w));
      for (int64_t i = 0; i < (left > right ? left : right); i++) p[i] = 0;
      left = right = 0;
    }
    for (int64_t w = 0; w < words; w++) {
      int64_t columns = m.cols - 64 * w < 64 ? m.cols - 64 * w : 64;
      const uint16_t* weights = dense + row * m.cols + 64 * w;
      float up = 0;
      if (m.scales) {
        float least = 0, most = 0;
        for (int64_t j = 0; j < columns; j++) {
          float edge = from_bf16(grid[row * m.cols + 64 * w + j]);
          least = fminf(least, edge);
          most = fmaxf(most, edge);
        }
        uint16_t scale = scale_of(m.format, least, most);
        const_cast<uint16_t*>(m.scales)[row * words + w] = scale;
        up = inverse(scale);
      }
      uint64_t mask = m.mask ? load64(m.mask + row * words + w) : ~0ull;
      for (int64_t j = 0; j < 64; j++) {
        if (!(mask >> j & 1)) continue;
        float steps = j < columns ? nearbyintf(from_bf16(weights[j]) * up) : 0.0f;
        if (m.format == SM_BF16) {
          __builtin_memcpy(p, weights + j, 2);
          p += 2;
        } else if (m.format == SM_INT4) {
          int nibble = int(fminf(fmaxf(steps, -8), 7)) + 8;
          if (w < half) p[left++] |= uint8_t(nibble);
          else p[right++] |= uint8_t(nibble << 4);
        } else {
          *p++ = uint8_t(int(fminf(fmaxf(steps, -128), 127)) + 128);
        }
      }
    }
    if (m.format == SM_INT4) p += left > right ? left : right;
  }
}

void arrange(const uint16_t* x, int64_t count, int64_t cols, float* out) {
  for (int64_t b = 0; b < count; b++)
    for (int64_t c = 0; c < (cols + 15) / 16 * 16; c++) *out++ = c < cols ? from_bf16(x[b * cols + c]) : 0.0f;
}

void dense(const uint16_t* weights, int64_t rows, int64_t cols, const float* x, int64_t count, float* y,
           int64_t stride) {
  const int64_t width = (cols + 15) / 16 * 16;
  for (int64_t b = 0; b < count; b++)
    for (int64_t row = 0; row < rows; row++) {
      float sum = 0;
      for (int64_t c = 0; c < cols; c++) sum += x[b * width + c] * from_bf16(weights[row * cols + c]);
      y[b * stride + row] = sum;
    }
}

const Kernels reference_kernels = {
    "reference",
    quantise,
    {product, product, product, product, product, product, product},
    {nullptr, pack, pack, pack, pack},
    {unpack, unpack, unpack, unpack, unpack, unpack, unpack},
    nullptr,
    arrange,
    dense,
    activate,
    attend,
    cap_all,
    round_all,
    exchange,
    move,
    divergence,
};
