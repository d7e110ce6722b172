// A CUDA driver that is not there: of its functions those that candlewick calls, over the emulation of kernels. With it the programs for
// a GPU run whole on a machine without one (tools/gpu/rehearse.sh): how kernels are found by name, given their arguments and timed, and
// what runs the programs.
//
// One device; work is done when it is queued, but for copies from and to the host. Those are done as late as they may be, in their stream: when
// somebody waits for an event behind them, or when something else is queued. So who reads or writes too early what they copy is found out.
// Numbers of attributes and errors are those of cuda.h.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <string>

extern "C" void *emulated_alloc(size_t bytes);
extern "C" void emulated_free(void *data);
extern "C" int emulated_has(const char *name);
extern "C" const char *emulated_launch(const char *name, const unsigned *grid, const unsigned *block, size_t dynamic_bytes, void **with, int descending);

namespace {

enum Result { SUCCESS = 0, OUT_OF_MEMORY = 2, NOT_FOUND = 500, LAUNCH_FAILED = 719 };
typedef unsigned long long Address;

constexpr size_t MEMORY = size_t(4) << 30;

struct Stream;

struct Event {
    std::chrono::steady_clock::time_point time;
    Stream *stream = nullptr;
    // Copies of the stream that were queued before.
    unsigned long copies = 0;
};

struct Copy {
    void *to;
    const void *from;
    size_t bytes;
};

struct Stream {
    std::deque<Copy> pending;
    unsigned long queued = 0;
    void queue(Copy copy) { pending.push_back(copy), queued++; }
    // Does the first copies, so many since the stream began.
    void reach(unsigned long count) {
        for (; queued - pending.size() < count; pending.pop_front())
            memcpy(pending.front().to, pending.front().from, pending.front().bytes);
    }
    void finish() { reach(queued); }
};

std::mutex turn;
int context, pool, module;
// Bytes of every buffer by its address.
std::map<Address, size_t> buffers;
size_t used = 0;

void *at(Address address) { return reinterpret_cast<void *>(address); }
void finish(void *stream) { static_cast<Stream *>(stream)->finish(); }

} // namespace

#define DRIVER(name, parameters) extern "C" __attribute__((visibility("default"))) Result name parameters

DRIVER(cuInit, (unsigned)) { return SUCCESS; }
DRIVER(cuDeviceGet, (int *device, int ordinal)) { return *device = 0, ordinal == 0 ? SUCCESS : Result(101); }
DRIVER(cuDeviceGetName, (char *name, int length, int)) { return snprintf(name, size_t(length), "played by the emulation"), SUCCESS; }
DRIVER(cuDeviceTotalMem_v2, (size_t *bytes, int)) { return *bytes = MEMORY, SUCCESS; }
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
DRIVER(cuStreamCreate, (void **into, unsigned)) { return *into = new Stream, SUCCESS; }
DRIVER(cuStreamDestroy_v2, (void *stream)) { return finish(stream), delete static_cast<Stream *>(stream), SUCCESS; }
DRIVER(cuStreamSynchronize, (void *stream)) {
    std::lock_guard<std::mutex> guard(turn);
    return finish(stream), SUCCESS;
}
DRIVER(cuDeviceGetDefaultMemPool, (void **into, int)) { return *into = &pool, SUCCESS; }
DRIVER(cuMemPoolSetAttribute, (void *, int, void *)) { return SUCCESS; }
// Reserved and used: the pool keeps nothing.
DRIVER(cuMemPoolGetAttribute, (void *, int, unsigned long long *into)) { return *into = used, SUCCESS; }
DRIVER(cuMemPoolTrimTo, (void *, size_t)) { return SUCCESS; }
DRIVER(cuMemGetInfo_v2, (size_t *free, size_t *total)) {
    std::lock_guard<std::mutex> guard(turn);
    return *free = MEMORY - used, *total = MEMORY, SUCCESS;
}

DRIVER(cuMemAlloc_v2, (Address *into, size_t bytes)) {
    std::lock_guard<std::mutex> guard(turn);
    if (bytes > MEMORY - used)
        return OUT_OF_MEMORY;
    *into = reinterpret_cast<Address>(emulated_alloc(bytes));
    return used += buffers[*into] = bytes, SUCCESS;
}
DRIVER(cuMemAllocAsync, (Address *into, size_t bytes, void *)) { return cuMemAlloc_v2(into, bytes); }
DRIVER(cuMemFree_v2, (Address address)) {
    std::lock_guard<std::mutex> guard(turn);
    used -= buffers[address];
    return buffers.erase(address), emulated_free(at(address)), SUCCESS;
}
DRIVER(cuMemFreeAsync, (Address address, void *stream)) {
    turn.lock(), finish(stream), turn.unlock();
    return cuMemFree_v2(address);
}
DRIVER(cuMemHostAlloc, (void **into, size_t bytes, unsigned)) { return *into = malloc(bytes), SUCCESS; }
DRIVER(cuMemFreeHost, (void *memory)) { return free(memory), SUCCESS; }
DRIVER(cuMemcpyHtoDAsync_v2, (Address to, const void *from, size_t bytes, void *into)) {
    std::lock_guard<std::mutex> guard(turn);
    return static_cast<Stream *>(into)->queue(Copy{at(to), from, bytes}), SUCCESS;
}
DRIVER(cuMemcpyDtoHAsync_v2, (void *to, Address from, size_t bytes, void *stream)) {
    std::lock_guard<std::mutex> guard(turn);
    return static_cast<Stream *>(stream)->queue(Copy{to, at(from), bytes}), SUCCESS;
}
DRIVER(cuMemcpyDtoDAsync_v2, (Address to, Address from, size_t bytes, void *stream)) {
    std::lock_guard<std::mutex> guard(turn);
    return finish(stream), memcpy(at(to), at(from), bytes), SUCCESS;
}
DRIVER(cuMemsetD8Async, (Address to, unsigned char value, size_t bytes, void *stream)) {
    std::lock_guard<std::mutex> guard(turn);
    return finish(stream), memset(at(to), value, bytes), SUCCESS;
}

DRIVER(cuModuleLoadData, (void **into, const void *)) { return *into = &module, SUCCESS; }
DRIVER(cuModuleUnload, (void *)) { return SUCCESS; }
// Names that are never given back: a kernel's function is its name.
DRIVER(cuModuleGetFunction, (void **into, void *, const char *name)) {
    return emulated_has(name) ? (*into = new std::string(name), SUCCESS) : NOT_FOUND;
}
DRIVER(cuLaunchKernel, (void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y, unsigned block_z,
                        unsigned shared_bytes, void *stream, void **parameters, void **)) {
    std::lock_guard<std::mutex> guard(turn);
    finish(stream);
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
DRIVER(cuEventRecord, (void *event, void *into)) {
    std::lock_guard<std::mutex> guard(turn);
    Stream *stream = static_cast<Stream *>(into);
    return *static_cast<Event *>(event) = Event{std::chrono::steady_clock::now(), stream, stream->queued}, SUCCESS;
}
// One that was never recorded is waited for by nobody.
DRIVER(cuEventSynchronize, (void *of)) {
    std::lock_guard<std::mutex> guard(turn);
    Event *event = static_cast<Event *>(of);
    if (event->stream)
        event->stream->reach(event->copies);
    return SUCCESS;
}
DRIVER(cuEventElapsedTime_v2, (float *milliseconds, void *begin, void *end)) {
    *milliseconds = std::chrono::duration<float, std::milli>(static_cast<Event *>(end)->time - static_cast<Event *>(begin)->time).count();
    return SUCCESS;
}

DRIVER(cuGetErrorName, (Result, const char **into)) { return *into = "PLAYED_ERROR", SUCCESS; }
DRIVER(cuGetErrorString, (Result error, const char **into)) {
    return *into = error == LAUNCH_FAILED ? "a kernel failed in the emulation" : "an error of the played driver", SUCCESS;
}
