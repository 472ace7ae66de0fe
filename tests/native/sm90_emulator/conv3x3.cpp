// Runs csrc/cuda/conv3x3_sm90_block.cuh, the kernel itself, on the emulator:
//   conv3x3 X W B Y ARGMAX N H W C_IN C_OUT RELU POOL FORM CLUSTER MULTIPROCESSORS EAGER ROTATED
// The first five are files of bfloat16 bits (ARGMAX of bytes), Y and ARGMAX are written. Prints the
// plan. Without arguments it reads lines N H W C_IN C_OUT POOL FORM MULTIPROCESSORS and prints for
// each what limit of the hardware the plan breaks, or "ok".
#include <stdlib.h>

#include <fstream>
#include <iostream>
#include <iterator>

#include "common/conv3x3_sm90_plan.h"
#include "cuda/conv3x3_sm90_block.cuh"
#include "cuda/conv3x3_sm90_maps.h"

using namespace vggfast::sm90;

namespace {

std::vector<char> read(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return std::vector<char>(std::istreambuf_iterator<char>(file), {});
}

void write(const char* path, const std::vector<char>& bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<long>(bytes.size()));
}

emulator::TensorMap map_of(char* base, const vggfast::TensorMapShape& s) {
  emulator::TensorMap map{base, s.rank, {}, {}, {}, s.swizzled};
  for (int i = 0; i < s.rank; ++i) {
    map.size[i] = static_cast<long>(s.size[i]);
    map.box[i] = static_cast<long>(s.box[i]);
    emulator::check(map.box[i] >= 1 && map.box[i] <= 256, "tensor map: box");
    if (i == 0) continue;
    map.stride[i - 1] = static_cast<long>(s.strides[i - 1]);
    emulator::check(map.stride[i - 1] % 16 == 0, "tensor map: stride");
  }
  return map;
}

template <int N>
void run(const Plan& p, const emulator::TensorMap& x, const emulator::TensorMap& y,
         const uint16_t* packed, const Outputs& out, int multiprocessors) {
  const int at_once = multiprocessors / p.cluster, clusters = p.units < at_once ? p.units : at_once;
  for (int i = 0; i < clusters; ++i) {
    emulator::run_cluster(p.cluster, i * p.cluster, clusters * p.cluster, [&](char* shared) {
      run_block<N, Half::BF16>(p, &x, &y, packed, out, shared);
    });
  }
}

const char* broken_limit(const Plan& p) {
  if (p.units == 0) return "no plan";
  if (p.shared_bytes > SHARED_LIMIT) return "shared memory";
  if (p.w_stages < LEAST_W_STAGES || p.w_stages <= LEAD) return "stages of weights";
  if (p.pitch > 256 || p.box_rows > 256 || p.images > 256) return "box";
  if (p.x_stage_bytes % 1024 || p.staging_at % 1024 || p.staging_bytes % 1024) return "alignment";
  if (p.w_at % 128 || p.w_stage_bytes % 128 || p.barriers_at % 8) return "alignment";
  if (positions(p) * CHUNK > 0x3FFF0 || positions(p) * ROW >= 1 << 20) return "field";
  if (p.tiles_n * p.images < p.n || p.tiles_h * p.rows * p.groups < p.h) return "cover";
  return p.tiles_w * p.width < p.w ? "cover" : "ok";
}

int broken_limits() {
  Problem q{};
  while (std::cin >> q.n >> q.h >> q.w >> q.c_in >> q.c_out >> q.pool >> q.form >>
         q.multiprocessors) {
    puts(broken_limit(choose(q)));
  }
  return 0;
}

}  // namespace

int main(int count, char** words) {
  if (count == 1) return broken_limits();
  emulator::check(count == 18, "arguments");
  auto number = [&](int i) { return atol(words[5 + i]); };
  std::vector<char> x = read(words[1]), w = read(words[2]), b = read(words[3]), y = read(words[4]),
                    argmax = read(words[5]);
  const long n = number(1), h = number(2), width = number(3), c_in = number(4), c_out = number(5);
  const bool relu = number(6), pool = number(7);
  const int form = static_cast<int>(number(8)), multiprocessors = static_cast<int>(number(10));
  const Plan p =
      choose({n, h, width, c_in, c_out, pool, form, static_cast<int>(number(9)), multiprocessors});
  emulator::check(p.units > 0, "no plan");
  emulator::eager = number(11);
  emulator::swizzle_by_row = form == SWIZZLED_OFFSET;

  const WeightShape shape{p.c_in, p.c_out, p.block};
  std::vector<uint16_t> packed(w.size() / 2);
  const uint16_t* plain = reinterpret_cast<const uint16_t*>(w.data());
  for (size_t i = 0; i < packed.size(); ++i) {
    packed[i] = plain[packed_source(shape, static_cast<long>(i), number(12))];
  }
  const Outputs out{b.empty() ? nullptr : reinterpret_cast<const uint16_t*>(b.data()),
                    reinterpret_cast<uint16_t*>(y.data()),
                    argmax.empty() ? nullptr : reinterpret_cast<uint8_t*>(argmax.data()), relu,
                    pool};
  const emulator::TensorMap x_map = map_of(x.data(), x_shape(p)),
                            y_map = map_of(y.data(), y_shape(p));
  switch (p.columns) {
    case 64:
      run<64>(p, x_map, y_map, packed.data(), out, multiprocessors);
      break;
    case 128:
      run<128>(p, x_map, y_map, packed.data(), out, multiprocessors);
      break;
    case 208:
      run<208>(p, x_map, y_map, packed.data(), out, multiprocessors);
      break;
    case 216:
      run<216>(p, x_map, y_map, packed.data(), out, multiprocessors);
      break;
    case 224:
      run<224>(p, x_map, y_map, packed.data(), out, multiprocessors);
      break;
    case 232:
      run<232>(p, x_map, y_map, packed.data(), out, multiprocessors);
      break;
    default:
      emulator::fail("columns");
  }
  write(words[4], y);
  write(words[5], argmax);
  printf(
      "columns %d cluster %d images %d rows %d width %d pitch %d box_rows %d parts %d groups %d "
      "units %d w_stages %d zeroed %d\n",
      p.columns, p.cluster, p.images, p.rows, p.width, p.pitch, p.box_rows, p.parts, p.groups,
      p.units, p.w_stages, p.zeroed);
}
