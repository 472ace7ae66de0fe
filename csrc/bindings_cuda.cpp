// CUDA kernels by name: the caller packs a kernel's one argument, a struct, as bytes. Their number
// is checked, and that they are launched as a grid of a legal size; what the pointers in them point
// to is the caller's to check.
#include <string>
#include <vector>

#include "bindings.h"
#include "emulator/emulator.h"
#if VGGFAST_WITH_CUDA
#include "cuda/launch.h"
#endif

namespace py = pybind11;
using vggfast::Kernel;
using vggfast::KernelTable;
using vggfast::Pointer;
using vggfast::require;

namespace {

const Kernel& find(const std::vector<KernelTable>& tables, const std::string& name) {
  for (const KernelTable& table : tables)
    for (size_t i = 0; i < table.size; ++i)
      if (name == table.kernels[i].name) return table.kernels[i];
  throw std::invalid_argument("name: there is no kernel " + name);
}

std::string checked(const Kernel& kernel, unsigned blocks_x, unsigned blocks_y, unsigned threads,
                    const py::bytes& params) {
  std::string bytes = params;
  if (bytes.size() != kernel.params)
    throw std::invalid_argument("params: got " + std::to_string(bytes.size()) + " bytes, " +
                                kernel.name + " takes " + std::to_string(kernel.params));
  require(blocks_x >= 1 && blocks_x <= 0x7fffffffu, "blocks_x: 1 to 2^31 - 1");
  require(blocks_y >= 1 && blocks_y <= 65535, "blocks_y: 1 to 65535");
  require(threads >= 32 && threads <= 1024 && threads % 32 == 0,
          "threads: a multiple of 32, 32 to 1024");
  return bytes;
}

void cuda_emulate(const std::string& name, unsigned blocks_x, unsigned blocks_y, unsigned threads,
                  const py::bytes& params, bool backwards) {
  const Kernel& kernel = find({vggfast::emulator::kernels()}, name);
  const std::string bytes = checked(kernel, blocks_x, blocks_y, threads, params);
  const char* error =  // one launch at a time: the interpreter's lock is kept
      vggfast::emulator::launch(kernel, blocks_x, blocks_y, threads, bytes.data(), backwards);
  if (error != nullptr) throw std::runtime_error(name + ": " + error);
}

#if VGGFAST_WITH_CUDA
void cuda_launch(const std::string& name, unsigned blocks_x, unsigned blocks_y, unsigned threads,
                 const py::bytes& params, Pointer stream) {
  static const std::vector<KernelTable> tables = {
      vggfast::maxpool2x2_kernels(),    vggfast::lrn_kernels(),  vggfast::sgd_kernels(),
      vggfast::cross_entropy_kernels(), vggfast::crop_kernels(), vggfast::first_conv_kernels()};
  const Kernel& kernel = find(tables, name);
  const std::string bytes = checked(kernel, blocks_x, blocks_y, threads, params);
  const char* error = vggfast::cuda_launch(kernel, {blocks_x, blocks_y, threads}, bytes.data(),
                                           reinterpret_cast<void*>(stream));
  if (error != nullptr) throw std::runtime_error("CUDA: " + name + ": " + error);
}
#endif

}  // namespace

namespace vggfast {

void cuda_config(py::dict& config) {
  config["cuda"] = static_cast<bool>(VGGFAST_WITH_CUDA);
#if VGGFAST_WITH_CUDA
  config["cuda_targets"] = VGGFAST_CUDA_TARGETS;
#else
  config["cuda_targets"] = "";
#endif
  py::list names;
  const KernelTable table = emulator::kernels();
  for (size_t i = 0; i < table.size; ++i) names.append(table.kernels[i].name);
  config["cuda_emulated"] = names;
}

void bind_cuda(py::module_& m) {
  m.def("cuda_emulate", &cuda_emulate, "Runs a CUDA kernel on the CPU (csrc/emulator).",
        py::arg("name"), py::arg("blocks_x"), py::arg("blocks_y"), py::arg("threads"),
        py::arg("params"), py::arg("backwards"));
#if VGGFAST_WITH_CUDA
  m.def("cuda_launch", &::cuda_launch, "Launches a CUDA kernel on a stream of the current device.",
        py::arg("name"), py::arg("blocks_x"), py::arg("blocks_y"), py::arg("threads"),
        py::arg("params"), py::arg("stream"));
  m.def("cuda_last_error", &vggfast::cuda_last_error,
        "The error the CUDA runtime keeps for the next call, or None.");
#endif
}

}  // namespace vggfast
