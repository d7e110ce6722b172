// A CUDA driver that is not there: of its functions those that candlewick calls, over the emulation of kernels. With it the programs for
// a GPU run whole on a machine without one (tools/gpu/rehearse.sh): how kernels are found by name, given their arguments and timed, and
// what runs the programs.
//
// One device with one stream; work is done when it is queued. Numbers of attributes and errors are those of cuda.h.
#include <chrono>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <string>

extern "C" void *emulated_alloc(size_t bytes);
extern "C" void emulated_free(void *data);
extern "C" int emulated_has(const char *name);
extern "C" const char *emulated_launch(const char *name, const unsigned *grid, const unsigned *block, size_t dynamic_bytes, void **with, int descending);

namespace {

enum Result { SUCCESS = 0, NOT_FOUND = 500, LAUNCH_FAILED = 719 };
typedef unsigned long long Address;
typedef std::chrono::steady_clock::time_point Event;

std::mutex turn;
int context, stream, pool, module;

void *at(Address address) { return reinterpret_cast<void *>(address); }

} // namespace

#define DRIVER(name, parameters) extern "C" __attribute__((visibility("default"))) Result name parameters

DRIVER(cuInit, (unsigned)) { return SUCCESS; }
DRIVER(cuDeviceGet, (int *device, int ordinal)) { return *device = 0, ordinal == 0 ? SUCCESS : Result(101); }
DRIVER(cuDeviceGetName, (char *name, int length, int)) { return snprintf(name, size_t(length), "played by the emulation"), SUCCESS; }
DRIVER(cuDeviceTotalMem_v2, (size_t *bytes, int)) { return *bytes = size_t(4) << 30, SUCCESS; }
DRIVER(cuDeviceGetAttribute, (int *value, int attribute, int)) {
    switch (attribute) {
    case 16: return *value = 1, SUCCESS;         // multiprocessors
    case 38: return *value = 1 << 12, SUCCESS;   // bytes of the second-level cache
    case 75: return *value = 9, SUCCESS;         // compute capability
    case 115: return *value = 1, SUCCESS;        // pools of memory
    default: return *value = 0, SUCCESS;
    }
}
DRIVER(cuDevicePrimaryCtxRetain, (void **into, int)) { return *into = &context, SUCCESS; }
DRIVER(cuDevicePrimaryCtxRelease_v2, (int)) { return SUCCESS; }
DRIVER(cuCtxSetCurrent, (void *)) { return SUCCESS; }
DRIVER(cuCtxGetCurrent, (void **into)) { return *into = &context, SUCCESS; }
DRIVER(cuCtxSynchronize, ()) { return SUCCESS; }
DRIVER(cuStreamCreate, (void **into, unsigned)) { return *into = &stream, SUCCESS; }
DRIVER(cuStreamDestroy_v2, (void *)) { return SUCCESS; }
DRIVER(cuStreamSynchronize, (void *)) { return SUCCESS; }
DRIVER(cuDeviceGetDefaultMemPool, (void **into, int)) { return *into = &pool, SUCCESS; }
DRIVER(cuMemPoolSetAttribute, (void *, int, void *)) { return SUCCESS; }

DRIVER(cuMemAllocAsync, (Address *into, size_t bytes, void *)) {
    std::lock_guard<std::mutex> guard(turn);
    return *into = reinterpret_cast<Address>(emulated_alloc(bytes)), SUCCESS;
}
DRIVER(cuMemAlloc_v2, (Address *into, size_t bytes)) { return cuMemAllocAsync(into, bytes, nullptr); }
DRIVER(cuMemFreeAsync, (Address address, void *)) {
    std::lock_guard<std::mutex> guard(turn);
    return emulated_free(at(address)), SUCCESS;
}
DRIVER(cuMemFree_v2, (Address address)) { return cuMemFreeAsync(address, nullptr); }
DRIVER(cuMemcpyHtoDAsync_v2, (Address to, const void *from, size_t bytes, void *)) { return memcpy(at(to), from, bytes), SUCCESS; }
DRIVER(cuMemcpyDtoHAsync_v2, (void *to, Address from, size_t bytes, void *)) { return memcpy(to, at(from), bytes), SUCCESS; }
DRIVER(cuMemcpyDtoDAsync_v2, (Address to, Address from, size_t bytes, void *)) { return memcpy(at(to), at(from), bytes), SUCCESS; }
DRIVER(cuMemsetD8Async, (Address to, unsigned char value, size_t bytes, void *)) { return memset(at(to), value, bytes), SUCCESS; }

DRIVER(cuModuleLoadData, (void **into, const void *)) { return *into = &module, SUCCESS; }
// Names that are never given back: a kernel's function is its name.
DRIVER(cuModuleGetFunction, (void **into, void *, const char *name)) {
    return emulated_has(name) ? (*into = new std::string(name), SUCCESS) : NOT_FOUND;
}
DRIVER(cuLaunchKernel, (void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y, unsigned block_z,
                        unsigned shared_bytes, void *, void **parameters, void **)) {
    std::lock_guard<std::mutex> guard(turn);
    const unsigned grid[3] = {grid_x, grid_y, grid_z}, block[3] = {block_x, block_y, block_z};
    const std::string &name = *static_cast<std::string *>(function);
    const char *error = emulated_launch(name.c_str(), grid, block, shared_bytes, parameters, 0);
    if (error)
        fprintf(stderr, "%s: %s\n", name.c_str(), error);
    return error ? LAUNCH_FAILED : SUCCESS;
}
DRIVER(cuFuncSetAttribute, (void *, int, int)) { return SUCCESS; }

DRIVER(cuEventCreate, (void **into, unsigned)) { return *into = new Event, SUCCESS; }
DRIVER(cuEventDestroy_v2, (void *event)) { return delete static_cast<Event *>(event), SUCCESS; }
DRIVER(cuEventRecord, (void *event, void *)) { return *static_cast<Event *>(event) = std::chrono::steady_clock::now(), SUCCESS; }
DRIVER(cuEventSynchronize, (void *)) { return SUCCESS; }
DRIVER(cuEventElapsedTime_v2, (float *milliseconds, void *begin, void *end)) {
    *milliseconds = std::chrono::duration<float, std::milli>(*static_cast<Event *>(end) - *static_cast<Event *>(begin)).count();
    return SUCCESS;
}

DRIVER(cuGetErrorName, (Result, const char **into)) { return *into = "PLAYED_ERROR", SUCCESS; }
DRIVER(cuGetErrorString, (Result error, const char **into)) {
    return *into = error == LAUNCH_FAILED ? "a kernel failed in the emulation" : "an error of the played driver", SUCCESS;
}
