// Packs, unpacks and multiplies matrices of odd shapes in buffers of exactly the promised size, for the sanitizers.
// Prints the name of the kernels; exit status 1 if a product is wrong.
#include <math.h>
#include <stdio.h>

#include <memory>
#include <random>
#include <vector>

#include "../csrc/kernels.h"

static std::mt19937 random_bits(0);

static int check(int64_t format, int64_t rows, int64_t cols, int64_t count, int64_t threads) {
  const int64_t words = (cols + 63) / 64;
  std::normal_distribution<float> normal;
  std::vector<uint16_t> dense(rows * cols), x(count * cols), y(count * rows), out(rows * cols);
  for (auto& w : dense) w = to_bf16(normal(random_bits));
  for (auto& v : x) v = to_bf16(normal(random_bits));
  std::vector<uint64_t> mask(rows * words);
  for (int64_t row = 0; row < rows; row++)
    for (int64_t c = 0; c < cols; c++) {
      bool keep = row % 4 == 1 ? false : row % 4 == 2 ? true : random_bits() & 1;
      mask[row * words + c / 64] |= uint64_t(keep) << c % 64;
    }
  std::vector<int64_t> starts((rows + SM_BLOCK - 1) / SM_BLOCK + 1);
  std::vector<uint16_t> scales(rows * words);
  bool masked = format >= SM_BF16, integers = format != SM_BF16 && format != SM_DENSE_BF16;
  int64_t size = masked ? sm_starts(format, mask.data(), rows, cols, starts.data())
                        : rows * (integers ? 64 * words : 2 * cols);
  std::unique_ptr<uint8_t[]> values(new uint8_t[size + SM_SLACK]());
  sm_matrix m = {format, rows, cols, masked ? mask.data() : nullptr, values.get(), masked ? starts.data() : nullptr,
                 integers ? scales.data() : nullptr};
  if (format == SM_DENSE_BF16) __builtin_memcpy(values.get(), dense.data(), size_t(size));
  else sm_pack(&m, dense.data(), threads);
  sm_unpack(&m, 0, rows, out.data(), threads);
  sm_matmul(&m, x.data(), count, nullptr, y.data(), threads);
  for (int64_t b = 0; b < count; b++)
    for (int64_t row = 0; row < rows; row++) {
      double sum = 0, size_of_sum = 0;
      for (int64_t c = 0; c < cols; c++) {
        double term = double(from_bf16(out[row * cols + c])) * from_bf16(x[b * cols + c]);
        sum += term;
        size_of_sum += fabs(term);
      }
      if (fabs(from_bf16(y[b * rows + row]) - sum) > 0.01 * size_of_sum + 1e-6) {
        fprintf(stderr, "format %d, %d x %d, row %d: %g, not %g\n", int(format), int(rows), int(cols), int(row),
                from_bf16(y[b * rows + row]), sum);
        return 1;
      }
    }
  return 0;
}

int main() {
  puts(sm_kernels());
  const int64_t shapes[][2] = {{1, 1}, {1, 64}, {3, 63}, {16, 65}, {17, 127}, {33, 129}, {50, 200}, {4, 896}, {130, 321}};
  for (auto& shape : shapes)
    for (int64_t format = 0; format < SM_FORMATS; format++)
      for (int64_t count : {1, 2, 7, 18})
        for (int64_t threads : {1, 3})
          if (check(format, shape[0], shape[1], count, threads)) return 1;
}
