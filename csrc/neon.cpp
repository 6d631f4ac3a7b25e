// NEON with dot products (ARMv8.2). Expansion is a byte shuffle, eight weights at a time, as in avx2.cpp.
#include <arm_neon.h>

#include "kernels.h"
#include "divergence.h"
#include "exchange.h"
#include "move.h"
#include "expansion.h"
#include "plain.h"
#include "rows.h"

namespace {

constexpr int TILE = 4;

inline uint16x8_t load_halves(const void* p) { return vreinterpretq_u16_u8(vld1q_u8(static_cast<const uint8_t*>(p))); }
inline float32x4_t low_floats(uint16x8_t v) { return vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(v), 16)); }
inline float32x4_t high_floats(uint16x8_t v) { return vreinterpretq_f32_u32(vshll_high_n_u16(v, 16)); }

// to nearest, ties to even
inline uint16x4_t to_halves(float32x4_t v) {
  const uint32x4_t bits = vreinterpretq_u32_f32(v), odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  return vshrn_n_u32(vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd), 16);
}

// 8 mask bits -> all ones in the columns that are kept
inline uint8x8_t keep8(uint32_t bits) {
  const uint8x8_t place = vcreate_u8(0x8040201008040201);
  return vtst_u8(vdup_n_u8(uint8_t(bits)), place);
}

inline uint16x8_t keep_halves(uint32_t bits) { return vreinterpretq_u16_s16(vmovl_s8(vreinterpret_s8_u8(keep8(bits)))); }

// up to 8 dense bfloat16 weights, the others 0
inline uint16x8_t load_columns(const uint8_t* p, int64_t columns) {
  if (columns >= 8) return load_halves(p);
  uint16_t some[8] = {};
  if (columns > 0) __builtin_memcpy(some, p, uint64_t(2 * columns));
  return vld1q_u16(some);
}

// A row's 16-bit weights, 8 columns at a time, dropped ones 0. Moves on with every call.
struct Halves {
  const sm_matrix& m;
  const uint8_t *p, *mask;
  uint16x8_t next(int64_t column) {
    const int64_t left = m.cols - column;
    const uint32_t bits = mask ? mask[column / 8] : 255;
    if (m.format == SM_BF16) {
      const uint8x16_t v = vqtbl1q_u8(vld1q_u8(p), vld1q_u8(TABLE.halves[bits]));
      p += 2 * TABLE.count[bits];
      return vreinterpretq_u16_u8(v);
    }
    const uint16x8_t v = load_columns(p, left);
    p += left <= 0 ? 0 : left < 8 ? 2 * left : 16;
    return mask ? vandq_u16(v, keep_halves(bits)) : v;
  }
};

// A row's 8- or 4-bit weights without their scale, 8 columns at a time, dropped ones 0.
struct Bytes {
  const sm_matrix& m;
  const uint8_t *p, *mask;
  int64_t half;  // first column of the high halves of bytes
  const uint8_t* right = p;
  int8x8_t next(int64_t column) {
    const uint32_t bits = mask ? mask[column / 8] : 255;
    if (m.format == SM_INT4) {
      const uint8_t*& at = column < half ? p : right;
      const uint8x8_t v = column < half ? vand_u8(vld1_u8(at), vdup_n_u8(15)) : vshr_n_u8(vld1_u8(at), 4);
      at += TABLE.count[bits];
      return vreinterpret_s8_u8(vtbl1_u8(vsub_u8(v, vdup_n_u8(8)), vld1_u8(TABLE.bytes[bits])));
    }
    const uint8x8_t v = veor_u8(vld1_u8(p), vdup_n_u8(0x80));
    if (m.format == SM_INT8) {
      p += TABLE.count[bits];
      return vreinterpret_s8_u8(vtbl1_u8(v, vld1_u8(TABLE.bytes[bits])));
    }
    p += 8;
    return vreinterpret_s8_u8(mask ? vand_u8(v, keep8(bits)) : v);
  }
  const uint8_t* end() const { return m.format == SM_INT4 && right > p ? right : p; }
};

inline const uint8_t* mask_of(const sm_matrix& m, int64_t row, int64_t words) {
  return m.mask ? reinterpret_cast<const uint8_t*>(m.mask + row * words) : nullptr;
}

inline Bytes bytes_of(const sm_matrix& m, int64_t row, int64_t words, const uint8_t* p) {
  return {m, p, mask_of(m, row, words), (words + 1) / 2 * 64};
}

template <int N>
const uint8_t* floats_row(const sm_matrix& m, const Activations& x, int64_t row, int64_t b, const uint8_t* p, float* y,
                          int64_t stride) {
  float32x4_t sum[4][N];
  for (auto& part : sum)
    for (auto& s : part) s = vdupq_n_f32(0);
  Halves weights = {m, p, mask_of(m, row, x.words)};
  for (int64_t c = 0; c < 64 * x.words; c += 16)
    for (int side = 0; side < 2; side++) {
      const uint16x8_t v = weights.next(c + 8 * side);
      const float32x4_t low = low_floats(v), high = high_floats(v);
      for (int i = 0; i < N; i++) {
        const float* at = x.f32 + (b + i) * x.words * 64 + c + 8 * side;
        sum[2 * side][i] = vfmaq_f32(sum[2 * side][i], low, vld1q_f32(at));
        sum[2 * side + 1][i] = vfmaq_f32(sum[2 * side + 1][i], high, vld1q_f32(at + 4));
      }
    }
  for (int i = 0; i < N; i++)
    y[i * stride] = vaddvq_f32(vaddq_f32(vaddq_f32(sum[0][i], sum[1][i]), vaddq_f32(sum[2][i], sum[3][i])));
  return weights.p;
}

// a lane of 4 columns a 32-bit sum, exact
template <int N>
const uint8_t* bytes_row(const sm_matrix& m, const Activations& x, int64_t row, int64_t b, const uint8_t* p, float* y,
                         int64_t stride) {
  float32x4_t sum[N];
  for (auto& s : sum) s = vdupq_n_f32(0);
  Bytes weights = bytes_of(m, row, x.words, p);
  for (int64_t c = 0; c < 64 * x.words; c += 16) {
    const int8x8_t left = weights.next(c);
    const int8x16_t v = vcombine_s8(left, weights.next(c + 8));
    const float scale = from_bf16(m.scales[row * x.words + c / 64]);
    for (int i = 0; i < N; i++) {
      const int64_t at = (b + i) * x.words * 64 + c;
      const int32x4_t dot = vdotq_s32(vdupq_n_s32(0), v, vld1q_s8(x.q + at));
      sum[i] = vfmaq_f32(sum[i], vcvtq_f32_s32(dot), vmulq_n_f32(vld1q_f32(x.scale + at / 4), scale));
    }
  }
  for (int i = 0; i < N; i++) y[i * stride] = vaddvq_f32(sum[i]);
  return weights.end();
}

template <int N>
struct AnyRow {
  static const uint8_t* run(const sm_matrix& m, const Activations& x, int64_t row, int64_t b, const uint8_t* p, float* y,
                            int64_t stride) {
    return is_bf16(m.format) ? floats_row<N>(m, x, row, b, p, y, stride) : bytes_row<N>(m, x, row, b, p, y, stride);
  }
};

constexpr auto product = by_rows<AnyRow, TILE>;

void unpack(const sm_matrix& m, int64_t first, int64_t last, uint16_t* out) {
  const int64_t words = words_of(m);
  const uint8_t* p = values_of(m, first);
  for (int64_t row = first; row < last; row++, out += m.cols) {
    Halves halves = {m, p, mask_of(m, row, words)};
    Bytes bytes = bytes_of(m, row, words, p);
    for (int64_t c = 0; c < 64 * words; c += 8) {
      uint16x8_t v;
      if (is_bf16(m.format)) {
        v = halves.next(c);
      } else {
        const float scale = from_bf16(m.scales[row * words + c / 64]);
        const int16x8_t steps = vmovl_s8(bytes.next(c));
        const float32x4_t low = vcvtq_f32_s32(vmovl_s16(vget_low_s16(steps)));
        const float32x4_t high = vcvtq_f32_s32(vmovl_high_s16(steps));
        v = vcombine_u16(to_halves(vmulq_n_f32(low, scale)), to_halves(vmulq_n_f32(high, scale)));
      }
      if (c + 8 <= m.cols) {
        vst1q_u16(out + c, v);
      } else {
        uint16_t some[8];
        vst1q_u16(some, v);
        for (int64_t i = c; i < m.cols; i++) out[i] = some[i - c];
      }
    }
    p = is_bf16(m.format) ? halves.p : bytes.end();
  }
}

}  // namespace

const Kernels neon_kernels = {
    "neon",
    nullptr,
    {product, product, product, product, product, product, product},
    {},  // packing, done once a model, is the reference's
    {nullptr, unpack, unpack, unpack, unpack, unpack, unpack},
    nullptr,
    nullptr,
    nullptr,
    activate,
    attend,
    cap_all,
    round_all,
    exchange,
    move,
    divergence,
};
