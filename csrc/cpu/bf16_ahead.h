// What a tile asks for while it computes: at each step so many cache lines from `from` on, for the
// second cache level.
#pragma once

struct Ahead {
  const char* from;
  long lines;
};
