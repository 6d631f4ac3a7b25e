// A whole token in one call, for models of the LLaMA kind: LLaMA, Mistral, Qwen2 and 3, Gemma 1 to 3.
// Between the products everything is float32; keys and values are kept in bfloat16.
#include <math.h>
#include <string.h>

#include "pool.h"
#include "product.h"

namespace {

std::unique_ptr<float[]> room(int64_t count) { return std::unique_ptr<float[]>(new float[count]); }

void normalise(const float* x, const float* weight, int64_t size, float epsilon, float* out) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < size; i++) sum += x[i] * x[i];
  const float scale = 1.0f / sqrtf(sum / float(size) + epsilon);
  for (int64_t i = 0; i < size; i++) out[i] = x[i] * scale * weight[i];
}

// products of several layers with one input
void apply(const sm_linear* const* layers, float* const* y, int64_t number, const float* x, int64_t count,
           bool alone, int64_t threads) {
  const sm_matrix* matrices[8];
  for (int64_t i = 0; i < number; i++) matrices[i] = layers[i]->matrix;
  Input input(x, count, matrices[0]->cols, false);
  input.alone = alone;
  multiply(matrices, y, number, input, threads);
  for (int64_t i = 0; i < number; i++) {
    const int64_t rows = matrices[i]->rows;
    if (!layers[i]->bias) continue;
    for (int64_t b = 0; b < count; b++)
      for (int64_t r = 0; r < rows; r++) y[i][b * rows + r] += layers[i]->bias[r];
  }
}

void rotate(float* head, const float* cosine, const float* sine, int64_t size) {
  const int64_t half = size / 2;
  for (int64_t i = 0; i < half; i++) {
    const float a = head[i], b = head[i + half];
    head[i] = a * cosine[i] - b * sine[i];
    head[i + half] = b * cosine[i + half] + a * sine[i + half];
  }
}

}  // namespace

extern "C" void sm_step(const sm_model* m, int64_t count, float* x, const float* cosine, const float* sine,
                        uint16_t* const* keys, uint16_t* const* values, int64_t columns, const int64_t* starts,
                        int64_t end, float* logits, const sm_matrix* const* more, float* const* more_logits,
                        int64_t threads) {
  const int64_t hidden = m->hidden, size = m->head_size, group = m->heads / m->key_heads;
  const int64_t q_size = m->heads * size, k_size = m->key_heads * size;
  auto normed = room(count * hidden), q = room(count * q_size), k = room(count * k_size), v = room(count * k_size);
  auto mixed = room(count * q_size), added = room(count * hidden);
  auto gate = room(count * m->intermediate), up = room(count * m->intermediate);
  const int64_t work = group * (end + 1) + size;
  auto scores = room(count * m->key_heads * work);

  auto norm_all = [&](const float* weight) {
    for (int64_t b = 0; b < count; b++)
      normalise(x + b * hidden, weight, hidden, m->epsilon, normed.get() + b * hidden);
  };
  auto add_all = [&](const float* weight) {
    for (int64_t b = 0; weight && b < count; b++)
      normalise(added.get() + b * hidden, weight, hidden, m->epsilon, added.get() + b * hidden);
    for (int64_t i = 0; i < count * hidden; i++) x[i] += added[i];
  };

  for (int64_t l = 0; l < m->blocks; l++) {
    const sm_block& block = m->block[l];
    norm_all(block.attention_norm);
    const sm_linear* qkv[] = {&block.q, &block.k, &block.v};
    float* qkv_out[] = {q.get(), k.get(), v.get()};
    apply(qkv, qkv_out, 3, normed.get(), count, m->alone, threads);

    parallel(threads, count * m->key_heads, [&](int64_t index) {
      const int64_t b = index / m->key_heads, h = index % m->key_heads;
      const int64_t turn = (block.rotation * count + b) * size;
      const float *c = cosine + turn, *s = sine + turn;
      float* key = k.get() + b * k_size + h * size;
      if (block.k_norm) normalise(key, block.k_norm, size, m->epsilon, key);
      rotate(key, c, s, size);
      const int64_t at = (b * m->key_heads + h) * columns * size;
      for (int64_t i = 0; i < size; i++) {
        keys[l][at + end * size + i] = to_bf16(key[i]);
        values[l][at + end * size + i] = to_bf16(v[b * k_size + h * size + i]);
      }
      float* queries = q.get() + b * q_size + h * group * size;
      for (int64_t g = 0; g < group; g++) {
        float* query = queries + g * size;
        if (block.q_norm) normalise(query, block.q_norm, size, m->epsilon, query);
        rotate(query, c, s, size);
        for (int64_t i = 0; i < size; i++) query[i] *= m->scale;
      }
      int64_t first = starts[b];
      if (block.window && end + 1 - block.window > first) first = end + 1 - block.window;
      float* mine = scores.get() + index * work;
      kernels.attend(queries, keys[l] + at + first * size, values[l] + at + first * size, end + 1 - first, size, group,
                     m->attention_cap, mine, mine + group * (end + 1), mixed.get() + b * q_size + h * group * size);
    });

    const sm_linear* o = &block.o;
    float* to = added.get();
    apply(&o, &to, 1, mixed.get(), count, m->alone, threads);
    add_all(block.attention_out_norm);

    norm_all(block.mlp_norm);
    const sm_linear* both[] = {&block.gate, &block.up};
    float* both_out[] = {gate.get(), up.get()};
    apply(both, both_out, 2, normed.get(), count, m->alone, threads);
    kernels.activate(gate.get(), up.get(), count * m->intermediate, m->gelu);
    const sm_linear* down = &block.down;
    apply(&down, &to, 1, gate.get(), count, m->alone, threads);
    add_all(block.mlp_out_norm);
  }

  norm_all(m->norm);
  Input input(normed.get(), count, hidden, false);
  input.alone = m->alone;
  multiply_rows(m->head, logits, input, threads);
  const int64_t rows = m->head.runs ? m->head.total : m->head.matrix->rows;
  if (m->logit_cap > 0)
    parallel(threads, count, [&](int64_t b) { kernels.cap(logits + b * rows, rows, m->logit_cap); });
  for (int64_t b = 0; more && b < count; b++) {
    if (!more[b]) continue;
    Input one(normed.get() + b * hidden, 1, hidden, false);
    multiply(more + b, more_logits + b, 1, one, threads);
    if (m->logit_cap > 0) kernels.cap(more_logits[b], more[b]->rows, m->logit_cap);
  }
}
