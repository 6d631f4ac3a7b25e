// AMX: several rows of activations at once. A block of 16 rows of weights is unpacked to bfloat16, which stays in the
// cache, and multiplied as tiles, so that up to 16 sequences cost little more than unpacking does.
#include <immintrin.h>

#include "kernels.h"

namespace {

struct alignas(64) Config {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};
  Config() {
    for (int tile = 0; tile < 8; tile++) bytes[tile] = 64, rows[tile] = 16;
  }
};

}  // namespace

// tiles 0-3: sums of 2 x 2 times 16 columns; 4, 5: their inputs, a column a row; 6, 7: pairs of tokens together
void amx_gram(const uint16_t* across, const uint16_t* pairs, int64_t steps, int64_t cols, int64_t first, int64_t last,
              float* sums) {
  const Config config;
  _tile_loadconfig(&config);
  alignas(64) float found[4][16 * 16];
  for (int64_t j = 0; j < last; j += 32)
    for (int64_t i = first; i < last; i += 32) {
      const uint16_t *a = across + i * steps * 32, *b = pairs + j * steps * 32;
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
      for (int64_t k = 0; k < steps; k++) {
        _tile_loadd(4, a + k * 512, 64);
        _tile_loadd(6, b + k * 512, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, b + (steps + k) * 512, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a + (steps + k) * 512, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
      _tile_stored(0, found[0], 64);
      _tile_stored(1, found[1], 64);
      _tile_stored(2, found[2], 64);
      _tile_stored(3, found[3], 64);
      for (int64_t t = 0; t < 4; t++) {
        const int64_t row = i + t / 2 * 16, col = j + t % 2 * 16;
        const int64_t rows = last - row < 16 ? last - row : 16, width = last - col < 16 ? last - col : 16;
        for (int64_t r = 0; r < rows; r++)
          for (int64_t c = 0; c < width; c++) sums[(row + r) * cols + col + c] += found[t][r * 16 + c];
      }
    }
  _tile_release();
}

// tiles 0-3: sums of 16 rows of weights x 16 rows of activations; 4: weights; 5: activations
void amx_product(const Kernels& kernels, const sm_matrix& m, const Activations& x, int64_t first, int64_t last,
                 float* y, int64_t stride, uint16_t* scratch) {
  const Config config;
  _tile_loadconfig(&config);
  const int64_t steps = x.words * 2, tiles = (x.count + 15) / 16, pitch = 2 * m.cols;
  alignas(64) float sums[16 * 16];
  for (int64_t row = first; row < last; row += SM_BLOCK) {
    const int64_t rows = last - row < SM_BLOCK ? last - row : SM_BLOCK;
    const uint8_t* weights = m.values + row * pitch;
    if (m.format != SM_DENSE_BF16) {
      kernels.unpack[m.format](m, row, row + rows, scratch);
      weights = reinterpret_cast<const uint8_t*>(scratch);
    } else if (rows < SM_BLOCK || m.cols % 64) {  // a tile would read past the end
      __builtin_memcpy(scratch, weights, size_t(rows * pitch));
      weights = reinterpret_cast<const uint8_t*>(scratch);
    }
    for (int64_t tile = 0; tile < tiles; tile += 4) {
      const int64_t several = tiles - tile < 4 ? tiles - tile : 4;
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
      for (int64_t k = 0; k < steps; k++) {
        _tile_loadd(4, weights + 64 * k, pitch);
        const uint16_t* at = x.tiles + (tile * steps + k) * 512;
        _tile_loadd(5, at, 64);
        _tile_dpbf16ps(0, 4, 5);
        if (several == 1) continue;
        _tile_loadd(5, at + steps * 512, 64);
        _tile_dpbf16ps(1, 4, 5);
        if (several == 2) continue;
        _tile_loadd(5, at + 2 * steps * 512, 64);
        _tile_dpbf16ps(2, 4, 5);
        if (several == 3) continue;
        _tile_loadd(5, at + 3 * steps * 512, 64);
        _tile_dpbf16ps(3, 4, 5);
      }
      for (int64_t t = 0; t < several; t++) {
        if (t == 0) _tile_stored(0, sums, 64);
        if (t == 1) _tile_stored(1, sums, 64);
        if (t == 2) _tile_stored(2, sums, 64);
        if (t == 3) _tile_stored(3, sums, 64);
        const int64_t b = 16 * (tile + t), count = x.count - b < 16 ? x.count - b : 16;
        for (int64_t i = 0; i < count; i++)
          for (int64_t r = 0; r < rows; r++) y[(b + i) * stride + row + r] = sums[16 * r + i];
      }
    }
  }
  _tile_release();
}
