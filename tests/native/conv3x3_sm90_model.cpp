// A model on the CPU of what csrc/cuda/conv3x3_sm90.cu makes the hardware do: the TMA unit's boxes,
// the addresses a wgmma descriptor means, a warpgroup's registers, stmatrix. All index arithmetic
// is the kernel's own (common/conv3x3_sm90_layout.h); the hardware's part follows the PTX ISA. A
// float stands for a 16-bit number, so values that are small whole numbers come out exactly.
#include <math.h>

#include <stdexcept>
#include <vector>

#include "common/conv3x3_sm90_plan.h"

using namespace vggfast::sm90;

namespace {

enum { BASE = 1024 };  // where shared memory starts; a multiple of 1024, as the kernel demands

// Shared memory by byte address; every 16-bit number has a float.
struct Shared {
  std::vector<float> cells = std::vector<float>(SHARED_LIMIT / 2, NAN);

  float& at(long byte) {
    if (byte < BASE || byte % 2 != 0) throw std::out_of_range("shared memory: address");
    return cells.at((byte - BASE) / 2);
  }
};

long swizzle(long byte) { return byte ^ (byte >> 7 & 7) << 4; }

// A box of a tensor: sizes, strides (in numbers) and box, innermost first.
struct Box {
  int rank;
  long size[5], stride[5], box[5];
  bool swizzled;

  template <typename Visit>
  void walk(const long* start, Visit visit) const {
    long total = 1;
    for (int i = 0; i < rank; ++i) total *= box[i];
    for (long k = 0; k < total; ++k) {
      long rest = k, offset = 0;
      bool inside = true;
      for (int i = 0; i < rank; ++i) {
        const long c = start[i] + rest % box[i];
        rest /= box[i];
        inside = inside && c >= 0 && c < size[i];
        offset += c * stride[i];
      }
      visit(k, inside, offset);
    }
  }
  void load(Shared& s, long to, const float* tensor, const long* start) const {
    walk(start, [&](long k, bool inside, long offset) {
      const long byte = to + 2 * k;
      s.at(swizzled ? swizzle(byte) : byte) = inside ? tensor[offset] : 0;
    });
  }
  void store(Shared& s, long from, float* tensor, const long* start) const {
    walk(start, [&](long k, bool inside, long offset) {
      if (inside) tensor[offset] = s.at(swizzle(from + 2 * k));
    });
  }
};

// The byte of (row, k) of a K-major matrix of K = 16. Without swizzle: core matrices of 8 rows x 16
// bytes. With it, rows of 128 bytes whose chunks are exchanged; the exchange follows the address,
// or (if `by_row`) the row counted from the start plus the base offset, the two readings of the PTX
// ISA.
long matrix_byte(uint64_t d, int row, int k, bool by_row) {
  const long start = (d & 0x3FFF) << 4, lead = (d >> 16 & 0x3FFF) << 4,
             stride = (d >> 32 & 0x3FFF) << 4;
  const int base = d >> 49 & 7, swizzled = d >> 62 & 3;
  if (swizzled == 0) return start + k / 8 * lead + row / 8 * stride + row % 8 * 16 + k % 8 * 2;
  if (swizzled != 1) throw std::logic_error("descriptor: swizzle");
  const long byte = start + row / 8 * stride + row % 8 * 128 + k * 2;
  if (!by_row) {
    if (base != 0) throw std::logic_error("descriptor: base offset");
    return swizzle(byte);
  }
  return byte ^ ((row + base) & 7) << 4;
}

struct Model {
  Plan p;
  bool relu, pool;
  const float *x, *packed, *bias;
  float* y;
  uint8_t* argmax;
  Shared shared;
  std::vector<float> sums = std::vector<float>(WARPGROUPS * 64L * MOST_COLUMNS);

  float& sum(int warpgroup, int m, int column) {
    return sums[(warpgroup * 64L + m) * MOST_COLUMNS + column];
  }

  long x_stage(int stage) const { return BASE + 1L * stage * p.x_stage_bytes; }

  void load_x(const Tile& t, int kb, int stage) {
    const long end = x_stage(stage) + p.x_stage_bytes, to = x_stage(stage);
    const long loaded = 1L * positions(p) * ROW, kept = p.zeroed * (p.form == SLABS ? CHUNK : ROW);
    for (long b = to; b < end; b += 2) {
      const bool zero = b >= to + loaded && b < to + loaded + kept;
      shared.at(b) = zero ? 0 : NAN;
    }
    const long c = p.c_in, w = p.w, h = p.h, n = p.n;
    if (p.form == SLABS) {
      const Box box{5,
                    {8, w, h, n, c / 8},
                    {1, c, w * c, h * w * c, 8},
                    {8, p.pitch, p.box_rows, p.images, 8},
                    false};
      const long start[5] = {0, t.w0 - 1, t.h0 - 1, t.n0, kb * 8};
      box.load(shared, to, x, start);
    } else {
      const Box box{
          4, {c, w, h, n}, {1, c, w * c, h * w * c}, {64, p.pitch, p.box_rows, p.images}, true};
      const long start[5] = {kb * 64, t.w0 - 1, t.h0 - 1, t.n0};
      box.load(shared, to, x, start);
    }
  }

  void multiply(const Tile& t, int kb, int tap, int stage) {
    const long w_at = BASE + p.w_at, x_at = x_stage(stage), x_end = x_at + p.x_stage_bytes;
    const WeightShape shape{p.c_in, p.c_out, p.block};
    const float* step = packed + packed_step(shape, t.c0 / p.block, kb, tap);
    for (long i = 0; i < p.w_stage_bytes / 2; ++i) shared.at(w_at + 2 * i) = step[i];
    std::vector<float> a(64 * 16), b(p.columns * 16);
    for (int g = 0; g < WARPGROUPS; ++g) {
      for (int k = 0; k < K_BLOCK / K_STEP; ++k) {
        const uint64_t da = w_descriptor(p, w_at, g) + k * w_k_advance(p);
        const uint64_t db =
            x_descriptor(p, x_at) + x_advance(p, first_position(p, g, tap)) + k * x_k_advance(p);
        for (int i = 0; i < 64 * 16; ++i) a[i] = shared.at(matrix_byte(da, i / 16, i % 16, false));
        for (int i = 0; i < p.columns * 16; ++i) {
          const long byte = matrix_byte(db, i / 16, i % 16, p.form == SWIZZLED_OFFSET);
          if (byte < x_at || byte >= x_end) throw std::out_of_range("x: read beyond its stage");
          b[i] = shared.at(byte);
        }
        for (int m = 0; m < 64; ++m) {
          for (int column = 0; column < p.columns; ++column) {
            float total = 0;
            for (int i = 0; i < 16; ++i) total += a[m * 16 + i] * b[column * 16 + i];
            sum(g, m, column) += total;
          }
        }
      }
    }
  }

  // One warp's stmatrix.trans of 8x8 matrices: lane 8q + i names the place of column i of matrix q.
  void stage(int g, int warp, int part, long to) {
    for (int j = 0; j < p.columns / 8; j += 2) {
      if (!in_part(p, part, j)) continue;
      const int matrices = j + 1 < p.columns / 8 ? 4 : 2;
      for (int lane = 0; lane < 8 * matrices; ++lane) {
        const int place = store_column(j, lane);
        const int row = place < p.columns ? staged_row(p, place) : DROPPED;
        const long byte = to + store_byte(p, part, row, warp, lane);
        const int q = lane / 8, column = 8 * (j + q / 2) + lane % 8;
        for (int i = 0; i < 8; ++i) {
          const int m = 16 * warp + 8 * (q % 2) + i;
          float v = sum(g, m, column) + bias_of(g, m);
          if (relu && v <= 0) v = 0;
          if (byte + 2 * i >= to + p.staging_bytes) throw std::out_of_range("staging");
          shared.at(byte + 2 * i) = v;
        }
      }
    }
  }
  int c0 = 0;  // of the tile
  float bias_of(int g, int m) const {
    return bias == nullptr ? 0 : bias[c0 + (p.groups == 1 ? 64 * g : 0) + m];
  }

  void store_pooled(const Tile& t, int row, int channel0, long from) {
    const int ho = p.h / 2, wo = p.w / 2;
    for (int k = 0; k < windows(p); ++k) {
      const Window at = window(p, k);
      const int n = t.n0 + at.image, h = row / 2 + at.row, w = t.w0 / 2 + at.column;
      if (n >= p.n || h >= ho || w >= wo) continue;
      const long pixel = (1L * n * ho + h) * wo + w;
      for (int channel = 0; channel < 64; ++channel) {
        float best = 0;
        int code = 0;
        for (int i = 0; i < 4; ++i) {
          const int r = at.corner + i / 2 * p.width + i % 2;
          const float v = shared.at(from + staged_byte(r, channel / 8) + channel % 8 * 2);
          if (i == 0 || argmax_takes(v, best)) best = v, code = i;
        }
        const long out = pixel * p.c_out + channel0 + channel;
        y[out] = best;
        uint8_t& byte = argmax[out / 4];
        byte = (out % 4 == 0 ? 0 : byte) | code << (2 * (out % 4));
      }
    }
  }

  void finish(const Tile& t) {
    c0 = t.c0;
    for (int g = 0; g < WARPGROUPS; ++g) {
      const long to = BASE + p.staging_at + 1L * g * p.staging_bytes;
      const int channel0 = t.c0 + (p.groups == 1 ? 64 * g : 0);
      const int h0 = t.h0 + (p.groups == 1 ? 0 : p.rows * g);
      for (int part = 0; part < p.parts; ++part) {
        for (long b = to; b < to + p.staging_bytes; b += 2) shared.at(b) = NAN;
        for (int warp = 0; warp < 4; ++warp) stage(g, warp, part, to);
        const int row = h0 + part * p.part_rows;
        if (pool) {
          store_pooled(t, row, channel0, to);
        } else if (t.n0 < p.n && row < p.h) {
          const long c = p.c_out, w = p.w, h = p.h, n = p.n;
          const Box box{4,
                        {c, w, h, n},
                        {1, c, w * c, h * w * c},
                        {64, p.width, p.part_rows, p.images},
                        true};
          const long start[5] = {channel0, t.w0, row, t.n0};
          box.store(shared, to, y, start);
        }
      }
    }
  }

  void run() {
    int stage = 0;
    for (int unit = 0; unit < p.units; ++unit) {
      for (int rank = 0; rank < p.cluster; ++rank) {
        const Tile t = place(p, unit, rank);
        sums.assign(sums.size(), 0);
        for (int kb = 0; kb < p.c_in / K_BLOCK; ++kb, stage ^= 1) {
          load_x(t, kb, stage);
          for (int tap = 0; tap < TAPS; ++tap) multiply(t, kb, tap, stage);
        }
        finish(t);
      }
    }
  }
};

}  // namespace

extern "C" {

// The plan's numbers that a test wants to see.
struct Seen {
  int columns, cluster, images, rows, width, pitch, box_rows, parts, groups, units, shared_bytes;
};

// Null, or what went wrong.
const char* model_conv3x3(const float* x, const float* packed, const float* bias, float* y,
                          uint8_t* argmax, long n, long h, long w, long c_in, long c_out, bool relu,
                          bool pool, int form, int cluster, int multiprocessors, Seen* seen) {
  static thread_local char text[200];
  const Problem q{n, h, w, c_in, c_out, pool, form, cluster, multiprocessors};
  Model model{choose(q), relu, pool, x, packed, bias, y, argmax};
  const Plan& p = model.p;
  if (p.units == 0) return "no plan";
  *seen = {p.columns,  p.cluster, p.images, p.rows,  p.width,       p.pitch,
           p.box_rows, p.parts,   p.groups, p.units, p.shared_bytes};
  try {
    model.run();
  } catch (const std::exception& error) {
    snprintf(text, sizeof(text), "%s", error.what());
    return text;
  }
  return nullptr;
}

void model_pack(const float* w, float* packed, int c_in, int c_out, bool rotated) {
  const WeightShape shape{c_in, c_out, channel_block(c_out)};
  for (long i = 0; i < 1L * TAPS * c_in * c_out; ++i)
    packed[i] = w[packed_source(shape, i, rotated)];
}

// The chosen plan of any shape: null if it keeps the hardware's limits.
const char* model_limits(long n, long h, long w, long c_in, long c_out, bool pool, int form,
                         int multiprocessors) {
  const Plan p = choose({n, h, w, c_in, c_out, pool, form, 0, multiprocessors});
  if (p.units == 0) return "no plan";
  if (p.shared_bytes > SHARED_LIMIT) return "shared memory";
  if (p.w_stages < 4) return "stages of weights";
  if (p.pitch > 256 || p.box_rows > 256 || p.images > 256) return "box";
  if (p.x_stage_bytes % 1024 || p.staging_at % 1024 || p.staging_bytes % 1024) return "alignment";
  if (p.w_at % 128 || p.w_stage_bytes % 128 || p.barriers_at % 8) return "alignment";
  if (positions(p) * CHUNK >> 4 > 0x3FFF || positions(p) * ROW >= 1 << 20) return "field";
  if (1L * p.tiles_n * p.images < n || 1L * p.tiles_h * p.rows * p.groups < h) return "cover";
  if (1L * p.tiles_w * p.width < w) return "cover";
  return nullptr;
}
}
