// Chooses the tile of the 3x3 convolution for Hopper, on the host, by counted time.
#pragma once

#include "common/conv3x3_sm90_layout.h"

namespace vggfast {
namespace sm90 {

// N of the compiled kernels. 232: 4 x 56 of maps 56, 112 and 224 wide; 208: 7 x 28; 224: 14 x 14 of
// a wider map; 216: a map of 14 x 14; the others for small maps and few images.
constexpr int COLUMNS[] = {64, 128, 208, 216, 224, 232};
constexpr int MOST_COLUMNS = 232;
constexpr int LEAST_W_STAGES = 4;  // the lead of a warpgroup (2), and two to load ahead

struct Problem {
  long n, h, w, c_in, c_out;
  bool pool;
  int form;
  int cluster;  // 1 or 2; 0: the plan chooses
  int multiprocessors;
};

inline int round_up(long value, int unit) {
  return static_cast<int>((value + unit - 1) / unit * unit);
}

// Cycles of the whole call. A wgmma of N columns takes N / 2 cycles of the tensor cores; the L2
// gives a multiprocessor about 24 bytes a cycle when all of them ask; slabs ask for each 32-byte
// sector twice; the epilogue's cost is a guess.
inline double counted_cycles(const Plan& p, int multiprocessors) {
  const double steps = p.c_in / K_BLOCK * TAPS;
  const double x_bytes = positions(p) * ROW * (p.form == SLABS ? 2.0 : 1.0) / TAPS;
  const double l2 = (p.w_stage_bytes / p.cluster + x_bytes) / 24.0, tensor = 4.0 * p.columns;
  const double tile = steps * (tensor > l2 ? tensor : l2) + 1000.0 + 6.0 * p.columns;
  const int at_once = multiprocessors / p.cluster;
  return tile * ((p.units + at_once - 1) / at_once);
}

// Fills in what follows from the tile; false if it does not fit.
inline bool lay_out(const Problem& q, Plan* p) {
  const bool whole_width = p->width >= q.w, whole = whole_width && p->rows * p->groups >= q.h;
  p->pitch = p->width + (whole_width ? 1 : 2);
  p->box_rows = p->rows * p->groups + (whole ? 1 : 2);
  p->zeroed = whole ? p->pitch + 1 : whole_width ? 1 : 0;
  if (p->images > 1 && !whole) return false;
  const long used = ((p->images - 1L) * p->box_rows + p->rows - 1) * p->pitch + p->width;
  p->columns = 0;
  for (int columns : COLUMNS) {
    if (columns >= used && p->columns == 0) p->columns = columns;
  }
  if (p->columns == 0 || p->pitch > 256 || p->box_rows > 256) return false;
  p->tiles_n = static_cast<int>((q.n + p->images - 1) / p->images);
  p->tiles_h = static_cast<int>((q.h + p->rows * p->groups - 1) / (p->rows * p->groups));
  p->tiles_w = static_cast<int>((q.w + p->width - 1) / p->width);
  const long tiles = 1L * p->tiles_n * p->tiles_h * p->tiles_w;
  const long units = (tiles + p->cluster - 1) / p->cluster * (p->c_out / p->block);
  if (units * p->cluster > INT32_MAX / 2) return false;
  p->units = static_cast<int>(units);

  const int loaded = positions(*p), least = loaded + p->zeroed;
  const int read = positions_read(*p) > least ? positions_read(*p) : least;
  const int behind = (read - loaded) * (p->form == SLABS ? CHUNK : ROW);
  p->x_stage_bytes = round_up(1L * loaded * ROW + behind, 1024);
  p->w_stage_bytes = K_BLOCK * p->block * 2;
  p->w_at = X_STAGES * p->x_stage_bytes;
  const int table = round_up(2L * (p->columns + 8), 8),
            barriers = 16 * (X_STAGES + MOST_W_STAGES) + 8;
  // All rows are staged at once if that leaves room enough for weights, else half of them.
  const int unit = q.pool ? 2 : 1;
  for (p->parts = 1; p->parts <= 2; ++p->parts) {
    if (p->rows % (p->parts * unit) != 0 || (p->parts > 1 && p->images > 1)) return false;
    p->part_rows = p->rows / p->parts;
    p->staging_bytes = round_up((part_positions(*p) + 1L) * ROW, 1024);
    const int room = SHARED_LIMIT - p->w_at - WARPGROUPS * p->staging_bytes - table - barriers;
    p->w_stages = room < 0 ? 0 : room / p->w_stage_bytes;
    if (p->w_stages >= LEAST_W_STAGES) break;
  }
  if (p->parts > 2) return false;
  if (p->w_stages > MOST_W_STAGES) p->w_stages = MOST_W_STAGES;
  p->staging_at = p->w_at + p->w_stages * p->w_stage_bytes;
  p->table_at = p->staging_at + WARPGROUPS * p->staging_bytes;
  p->barriers_at = p->table_at + table;
  p->shared_bytes = p->barriers_at + barriers;
  return true;
}

// The plan of the least counted time; its `units` are 0 if there is none. Needs n >= 1.
inline Plan choose(const Problem& q) {
  Plan best{};
  double least = 0;
  Plan p{};
  p.n = static_cast<int>(q.n);
  p.h = static_cast<int>(q.h);
  p.w = static_cast<int>(q.w);
  p.c_in = static_cast<int>(q.c_in);
  p.c_out = static_cast<int>(q.c_out);
  p.form = q.form;
  p.block = channel_block(q.c_out);
  p.groups = 128 / p.block;
  const int step = q.pool ? 2 : 1;
  const long most_width = q.w + (q.pool ? q.w % 2 : 0);
  const long most_rows = round_up((q.h + p.groups - 1) / p.groups, step);
  for (p.width = step; p.width <= most_width && p.width <= MOST_COLUMNS; p.width += step) {
    for (p.rows = step; p.rows <= most_rows && p.rows * p.width <= MOST_COLUMNS; p.rows += step) {
      for (p.images = 1; p.images <= q.n; ++p.images) {
        bool fits = false;
        for (p.cluster = 1; p.cluster <= 2; ++p.cluster) {
          if (q.cluster != 0 && q.cluster != p.cluster) continue;
          if (!lay_out(q, &p)) continue;
          fits = true;
          const double cycles = counted_cycles(p, q.multiprocessors);
          if (best.units == 0 || cycles < least) {
            best = p;
            least = cycles;
          }
        }
        if (!fits) break;  // nor will more images
      }
    }
  }
  return best;
}

}  // namespace sm90
}  // namespace vggfast
