// AVX2: dense bfloat16 weights times several rows of activations. A bfloat16 is the upper half of a float, so 16 weights
// become two vectors by a shift and a mask, the even columns and the odd ones, and activations are kept in that order.
// A weight that is loaded meets up to 5 rows of activations, an activation 2 to 4 rows of weights. The sums of a row of
// activations do not depend on how many others there are.
#include <immintrin.h>

#include "kernels.h"
#include "avx2.h"

namespace {

constexpr int MOST = 5;          // rows of activations to a tile: with 6 compilers run out of registers
constexpr int64_t STRIP = 896;   // columns at once, at most: their tile of activations, 18 KiB, stays in the first cache

inline __m256i load(const uint16_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }

// a register, which compilers would rather load anew for each product
inline __m256 held(const float* p) {
  __m256 v = _mm256_loadu_ps(p);
  asm volatile("" : "+x"(v));
  return v;
}

// R rows of x, `width` floats apart, times C rows of weights, `pitch` apart, over some columns, a multiple of 16; added
// to y [R][stride] if `more`
template <int R, int C>
void tile(const uint16_t* w, int64_t pitch, const float* x, int64_t width, int64_t columns, bool more, float* y,
          int64_t stride) {
  const __m256i upper = _mm256_set1_epi32(int(0xffff0000));
  __m256 sum[R][C] = {};
  for (int64_t k = 0; k < columns; k += 16) {
    __m256 weights[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; c++) {
      _mm_prefetch(reinterpret_cast<const char*>(w + (c + C) * pitch + k), _MM_HINT_T0);  // the rows that come next
      weights[c] = _mm256_castsi256_ps(_mm256_slli_epi32(load(w + c * pitch + k), 16));
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const __m256 even = held(x + r * width + k);
#pragma GCC unroll 8
      for (int c = 0; c < C; c++) sum[r][c] = _mm256_fmadd_ps(even, weights[c], sum[r][c]);
    }
#pragma GCC unroll 8
    for (int c = 0; c < C; c++) weights[c] = _mm256_castsi256_ps(_mm256_and_si256(load(w + c * pitch + k), upper));
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const __m256 odd = held(x + r * width + k + 8);
#pragma GCC unroll 8
      for (int c = 0; c < C; c++) sum[r][c] = _mm256_fmadd_ps(odd, weights[c], sum[r][c]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int c = 0; c < C; c++) {
      float& out = y[r * stride + c];
      out = more ? out + sum_of(sum[r][c]) : sum_of(sum[r][c]);
    }
}

// the 16 registers hold R x C sums, C vectors of weights, one of activations and the mask
template <int R>
void strip(const uint16_t* w, int64_t pitch, int64_t rows, const float* x, int64_t width, int64_t columns, bool more,
           float* y, int64_t stride) {
  constexpr int C = R > 3 ? 2 : R == 3 ? 3 : 4;
  int64_t row = 0;
  for (; row + C <= rows; row += C) tile<R, C>(w + row * pitch, pitch, x, width, columns, more, y + row, stride);
  for (; row < rows; row++) tile<R, 1>(w + row * pitch, pitch, x, width, columns, more, y + row, stride);
}

using Strip = void (*)(const uint16_t*, int64_t, int64_t, const float*, int64_t, int64_t, bool, float*, int64_t);
constexpr Strip STRIPS[MOST] = {strip<1>, strip<2>, strip<3>, strip<4>, strip<5>};

}  // namespace

void fma_arrange(const uint16_t* x, int64_t count, int64_t cols, float* out) {
  const __m256i upper = _mm256_set1_epi32(int(0xffff0000));
  for (int64_t b = 0; b < count; b++, x += cols)
    for (int64_t c = 0; c < cols; c += 16, out += 16) {
      alignas(32) uint16_t rest[16] = {};
      if (c + 16 > cols) __builtin_memcpy(rest, x + c, size_t(2 * (cols - c)));
      const __m256i v = load(c + 16 > cols ? rest : x + c);
      _mm256_storeu_ps(out, _mm256_castsi256_ps(_mm256_slli_epi32(v, 16)));
      _mm256_storeu_ps(out + 8, _mm256_castsi256_ps(_mm256_and_si256(v, upper)));
    }
}

void fma_dense(const uint16_t* weights, int64_t rows, int64_t cols, const float* x, int64_t count, float* y,
               int64_t stride) {
  const int64_t width = (cols + 15) / 16 * 16, whole = cols / 16 * 16, left = cols - whole;
  const int64_t tiles = (count + MOST - 1) / MOST;
  const int64_t strips = (width + STRIP - 1) / STRIP, step = (width / 16 + strips - 1) / strips * 16;
  alignas(32) uint16_t rest[SM_BLOCK * 16] = {};
  for (int64_t row = 0; row < rows; row += SM_BLOCK, weights += SM_BLOCK * cols) {
    const int64_t height = rows - row < SM_BLOCK ? rows - row : SM_BLOCK;
    for (int64_t r = 0; left && r < height; r++)
      __builtin_memcpy(rest + r * 16, weights + r * cols + whole, size_t(2 * left));
    for (int64_t k = 0; k < width; k += step) {
      const int64_t columns = whole - k < step ? whole - k : step;
      for (int64_t t = 0, b = 0; t < tiles; t++) {
        const int64_t next = (t + 1) * count / tiles;
        const Strip& multiply = STRIPS[next - b - 1];
        float* to = y + b * stride + row;
        multiply(weights + k, cols, height, x + b * width + k, width, columns, k > 0, to, stride);
        if (left && k + step >= width) multiply(rest, 16, height, x + b * width + whole, width, 16, true, to, stride);
        b = next;
      }
    }
  }
}
