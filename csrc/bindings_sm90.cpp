// Bindings of the 3x3 convolution for Hopper (cuda/conv3x3_sm90.h).
#if VGGFAST_WITH_CUDA
#include <string>

#include "bindings.h"
#include "cuda/conv3x3_sm90.h"

namespace py = pybind11;

namespace vggfast {
namespace {

void check(const char* error) {
  if (error != nullptr) throw std::runtime_error(std::string("CUDA: ") + error);
}

void check_channels(long c_in, long c_out) {
  constexpr long most = 1L << 16;
  require(c_in >= 64 && c_in % 64 == 0 && c_in <= most, "c_in: a multiple of 64 up to 65536");
  require(c_out >= 64 && c_out % 64 == 0 && c_out <= most, "c_out: a multiple of 64 up to 65536");
}

sm90::Problem problem(long n, long h, long w, long c_in, long c_out, bool pool, int form,
                      int cluster) {
  // The TMA unit counts pixels in 32 bits and bytes to the next image in 40.
  require(n >= 0 && h >= 1 && w >= 1 && n <= INT32_MAX / 2 && h <= 65536 && w <= 65536,
          "a dimension is out of range");
  check_channels(c_in, c_out);
  require(!pool || (h >= 2 && w >= 2), "pool: needs h and width of at least 2");
  require(h * w * (c_in > c_out ? c_in : c_out) * 2 < 1L << 40, "an image is too large");
  require(form >= sm90::SLABS && form <= sm90::SWIZZLED_OFFSET, "form: 0, 1 or 2");
  require(cluster >= 0 && cluster <= 2, "cluster: 0, 1 or 2");
  return {n, h, w, c_in, c_out, pool, form, cluster, 0};
}

void cuda_conv3x3_call(Pointer x, Pointer packed, Pointer b, Pointer y, Pointer argmax, long n,
                       long h, long width, long c_in, long c_out, bool relu, bool pool, bool bf16,
                       int form, int cluster, Pointer stream) {
  sm90::Problem q = problem(n, h, width, c_in, c_out, pool, form, cluster);
  require(argmax == 0 || pool, "argmax: only with pool");
  if (n == 0) return;
  require(x && packed && y, "x, packed and y must not be null");
  require(x % 16 == 0 && packed % 16 == 0 && y % 16 == 0, "x, packed, y: multiples of 16 bytes");
  require(argmax % 2 == 0 && b % 2 == 0, "b, argmax: multiples of 2 bytes");
  check(cuda_sm90_multiprocessors(&q.multiprocessors));
  const CudaConv call{reinterpret_cast<const void*>(x),
                      reinterpret_cast<const void*>(packed),
                      reinterpret_cast<const void*>(b),
                      reinterpret_cast<void*>(y),
                      bytes(argmax),
                      relu,
                      bf16};
  check(cuda_conv3x3(call, q, reinterpret_cast<void*>(stream)));
}

void cuda_conv3x3_pack_call(Pointer w, Pointer packed, long c_in, long c_out, bool rotated,
                            Pointer stream) {
  check_channels(c_in, c_out);
  require(w && packed, "w and packed must not be null");
  require(w % 2 == 0 && packed % 16 == 0, "w: a multiple of 2 bytes, packed: of 16");
  int multiprocessors = 0;
  check(cuda_sm90_multiprocessors(&multiprocessors));
  check(cuda_conv3x3_pack(reinterpret_cast<const void*>(w), reinterpret_cast<void*>(packed), c_in,
                          c_out, rotated, reinterpret_cast<void*>(stream)));
}

py::dict cuda_conv3x3_plan(long n, long h, long width, long c_in, long c_out, bool pool, int form,
                           int cluster, int multiprocessors) {
  sm90::Problem q = problem(n, h, width, c_in, c_out, pool, form, cluster);
  require(n >= 1 && multiprocessors >= 2, "n: at least 1, multiprocessors: at least 2");
  q.multiprocessors = multiprocessors;
  const sm90::Plan p = sm90::choose(q);
  require(p.units > 0, "no tile serves this shape");
  py::dict out;
  out["columns"] = p.columns;
  out["cluster"] = p.cluster;
  out["block"] = p.block;
  out["images"] = p.images;
  out["rows"] = p.rows * p.groups;
  out["width"] = p.width;
  out["parts"] = p.parts;
  out["w_stages"] = p.w_stages;
  out["shared_bytes"] = p.shared_bytes;
  out["tiles"] = static_cast<long>(p.units) * p.cluster;
  out["cycles"] = sm90::counted_cycles(p, multiprocessors);
  return out;
}

}  // namespace

void bind_sm90(py::module_& m) {
  m.def("cuda_conv3x3", &cuda_conv3x3_call, py::arg("x"), py::arg("packed"), py::arg("b"),
        py::arg("y"), py::arg("argmax"), py::arg("n"), py::arg("h"), py::arg("width"),
        py::arg("c_in"), py::arg("c_out"), py::arg("relu"), py::arg("pool"), py::arg("bf16"),
        py::arg("form"), py::arg("cluster"), py::arg("stream"));
  m.def("cuda_conv3x3_pack", &cuda_conv3x3_pack_call, py::arg("w"), py::arg("packed"),
        py::arg("c_in"), py::arg("c_out"), py::arg("rotated"), py::arg("stream"));
  m.def("cuda_conv3x3_plan", &cuda_conv3x3_plan, py::arg("n"), py::arg("h"), py::arg("width"),
        py::arg("c_in"), py::arg("c_out"), py::arg("pool"), py::arg("form"), py::arg("cluster"),
        py::arg("multiprocessors"), "The tile a call would use and its counted cycles.");
}

}  // namespace vggfast
#endif
