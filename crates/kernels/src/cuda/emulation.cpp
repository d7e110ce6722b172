// The scheduler and the memory of the emulation, and what the tests call: see emulation.h.
#include "emulation.h"

#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

Dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {
namespace {

constexpr size_t STACK = 128 * 1024, BORDER = 256;
constexpr unsigned char POISON = 0xff;

#if defined(__x86_64__)
// Keeps what a called function must keep on the stack, and the stack pointer in *save; goes on where `load` was kept.
extern "C" void emulation_switch(void **save, void *load);
asm(R"(
    .text
    .globl emulation_switch
    .hidden emulation_switch
    .type emulation_switch, @function
emulation_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emulation_switch, .-emulation_switch
)");

struct Context {
    void *at = nullptr;
    void begin(char *stack, size_t bytes, void (*main)()) {
        // As if `main` had been called: its return address (none) is where the stack is 8 off a multiple of 16.
        auto top = reinterpret_cast<uintptr_t>(stack + bytes) & ~uintptr_t(15);
        void **frame = reinterpret_cast<void **>(top) - 8;
        std::memset(frame, 0, 8 * sizeof *frame);
        frame[6] = reinterpret_cast<void *>(main);
        at = frame;
    }
    void leave_for(Context &other) { emulation_switch(&at, other.at); }
};
#else
struct Context {
    ucontext_t at;
    void begin(char *stack, size_t bytes, void (*main)()) {
        getcontext(&at);
        at.uc_stack.ss_sp = stack;
        at.uc_stack.ss_size = bytes;
        at.uc_link = nullptr;
        makecontext(&at, main, 0);
    }
    void leave_for(Context &other) { swapcontext(&at, &other.at); }
};
#endif

enum class State { Ready, AtBarrier, AtMeeting, Ended };

// An asynchronous copy that has not landed.
struct Copy {
    unsigned char *to;
    const unsigned char *from;
    unsigned bytes, whole;
    unsigned long group;
};

struct Fiber {
    Context context;
    std::unique_ptr<char[]> stack{new char[STACK]};
    Dim3 index;
    unsigned number = 0;
    State state = State::Ready;
    Site site{};
    unsigned long meetings = 0;
    std::vector<Copy> copies;
    // How many groups of copies the thread has made.
    unsigned long groups = 0;
};

// Poisoned memory with a border on both sides.
struct Guarded {
    std::vector<unsigned char> memory;
    size_t bytes = 0;
    void make(size_t wanted) {
        bytes = wanted;
        // 64 is the most that any access wants to be aligned to.
        memory.assign(wanted + 2 * BORDER + 64, POISON);
    }
    unsigned char *data() {
        auto begin = reinterpret_cast<uintptr_t>(memory.data()) + BORDER;
        return reinterpret_cast<unsigned char *>((begin + 63) & ~uintptr_t(63));
    }
    bool whole() {
        unsigned char *begin = data();
        for (size_t i = 0; i < BORDER; i++)
            if (begin[-1 - ptrdiff_t(i)] != POISON || begin[bytes + i] != POISON)
                return false;
        return true;
    }
    bool holds(const void *pointer, size_t wanted) {
        auto at = reinterpret_cast<uintptr_t>(pointer), begin = reinterpret_cast<uintptr_t>(data());
        return at >= begin && at + wanted <= begin + bytes;
    }
};

struct Kernel {
    unsigned most_threads;
    void (*call)(void *, void **);
    void *function;
};

// Built before main by the kernels' own registrations, in any order of files.
std::map<std::string, Kernel> &kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}

std::map<uintptr_t, std::unique_ptr<Guarded>> buffers;
std::vector<std::unique_ptr<Fiber>> fibers;
std::map<const void *, Guarded> shared;
Guarded dynamic;
// [warp][turn][lane]
std::vector<unsigned char> slots;
Fiber *running = nullptr;
Context scheduler;
const Kernel *kernel = nullptr;
void **arguments = nullptr;
std::string error;
int conflicts = 0;
std::set<std::pair<std::string, int>> barriers;
std::pair<std::string, int> dropped;

void fiber_main() {
    kernel->call(kernel->function, arguments);
    running->state = State::Ended;
    running->context.leave_for(scheduler);
}

void wait_as(State state, Site site) {
    running->state = state;
    running->site = site;
    running->context.leave_for(scheduler);
}

void say(const char *reason, Site site) {
    error = "block (" + std::to_string(blockIdx.x) + ", " + std::to_string(blockIdx.y) + ", " + std::to_string(blockIdx.z) + "): " + reason;
    if (site.file)
        error += std::string(", at ") + site.file + ":" + std::to_string(site.line);
}

// Whether all of these fibers wait in this state; one that waits at another line is an error.
bool all_in(size_t from, size_t to, State state) {
    for (size_t i = from; i < to; i++)
        if (fibers[i]->state != state)
            return false;
    for (size_t i = from; i < to; i++)
        if (state != State::Ended && fibers[i]->site.line != fibers[from]->site.line) {
            say("threads wait for each other at different lines", fibers[i]->site);
            return false;
        }
    return true;
}

void release(size_t from, size_t to) {
    for (size_t i = from; i < to; i++)
        fibers[i]->state = State::Ready;
}

// Always resumes the first fiber, in the given order, that can go on.
void run_fibers(bool descending) {
    size_t threads = fibers.size(), place = 0;
    auto number = [&](size_t at) { return descending ? threads - 1 - at : at; };
    while (error.empty()) {
        while (place < threads && fibers[number(place)]->state != State::Ready)
            place++;
        if (place == threads) {
            if (all_in(0, threads, State::Ended))
                return;
            if (!all_in(0, threads, State::AtBarrier)) {
                if (error.empty())
                    for (auto &fiber : fibers)
                        if (fiber->state != State::Ended)
                            say("threads wait for others that will not come", fiber->site);
                return;
            }
            release(0, threads);
            place = 0;
            continue;
        }
        Fiber &fiber = *fibers[number(place)];
        running = &fiber;
        threadIdx = fiber.index;
        scheduler.leave_for(fiber.context);
        size_t warp = fiber.number / WARP_SIZE * WARP_SIZE;
        if (fiber.state == State::AtMeeting && all_in(warp, warp + WARP_SIZE, State::AtMeeting)) {
            release(warp, warp + WARP_SIZE);
            place = place / WARP_SIZE * WARP_SIZE;
        }
    }
}

void run_block(size_t dynamic_bytes, bool descending) {
    size_t threads = size_t(blockDim.x) * blockDim.y * blockDim.z;
    while (fibers.size() < threads)
        fibers.push_back(std::make_unique<Fiber>());
    fibers.resize(threads);
    shared.clear();
    dynamic.make(dynamic_bytes);
    slots.assign(threads * 2 * MOST_LEFT, POISON);
    for (size_t i = 0; i < threads; i++) {
        Fiber &fiber = *fibers[i];
        fiber.number = unsigned(i);
        fiber.state = State::Ready;
        fiber.meetings = 0;
        fiber.copies.clear();
        fiber.groups = 0;
        fiber.index.x = unsigned(i) % blockDim.x;
        fiber.index.y = unsigned(i) / blockDim.x % blockDim.y;
        fiber.index.z = unsigned(i) / blockDim.x / blockDim.y;
        fiber.context.begin(fiber.stack.get(), STACK, fiber_main);
    }
    run_fibers(descending);
    if (!error.empty())
        return;
    for (auto &[place, memory] : shared)
        if (!memory.whole())
            say("a kernel wrote outside of its shared memory", Site{nullptr, 0});
    if (!dynamic.whole())
        say("a kernel wrote outside of its dynamic shared memory", Site{nullptr, 0});
}

// Notes a place where threads wait for others, or for copies.
bool is_left_out(Site site) {
    barriers.insert({site.file, site.line});
    return dropped.second == site.line && dropped.first == site.file;
}

bool is_shared(const void *pointer, size_t bytes) {
    if (dynamic.holds(pointer, bytes))
        return true;
    for (auto &[place, memory] : shared)
        if (memory.holds(pointer, bytes))
            return true;
    return false;
}

bool is_in_buffer(const void *pointer, size_t bytes) {
    auto next = buffers.upper_bound(reinterpret_cast<uintptr_t>(pointer));
    return next != buffers.begin() && std::prev(next)->second->holds(pointer, bytes);
}

bool is_on_pack(const void *pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

float value_of(unsigned reg, unsigned half) { return __bfloat162float(bf16{uint16_t(reg >> 16 * half)}); }

// The name of the kernel that runs.
const char *running_kernel = nullptr;
struct sigaction before;

// An access to memory that nobody has ends the process; this says first which kernel made it.
void wild_access(int signal, siginfo_t *, void *) {
    if (running_kernel) {
        char text[256];
        int length = snprintf(text, sizeof text, "emulation: %s, block (%u, %u, %u), thread (%u, %u, %u): an access to memory that is not there\n",
                              running_kernel, blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
        if (write(2, text, size_t(length)) < 0)
            length = 0;
    }
    // The access is made again, and whoever was there before is told.
    sigaction(signal, &before, nullptr);
}

void tell_of_wild_accesses() {
    static bool is_installed = false;
    if (is_installed)
        return;
    is_installed = true;
    struct sigaction action = {};
    action.sa_sigaction = wild_access;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, &before);
}

const char *told() { return error.empty() ? nullptr : error.c_str(); }

} // namespace

void fail(const char *reason, Site site) {
    say(reason, site);
    running->context.leave_for(scheduler);
    std::abort();
}

void *shared_at(const void *place, size_t bytes, size_t) {
    Guarded &memory = shared[place];
    if (memory.memory.empty())
        memory.make(bytes);
    return memory.data();
}

void *dynamic_shared() { return dynamic.data(); }

void barrier(Site site) {
    if (!is_left_out(site))
        wait_as(State::AtBarrier, site);
}

void warp_barrier(Site site) {
    if (!is_left_out(site))
        meet("", 0, site);
}

unsigned lane() { return running->number % WARP_SIZE; }

const unsigned char *meet(const void *mine, size_t bytes, Site site) {
    // Two sets of slots take turns, since a fast lane may leave its next value before a slow one has taken the last.
    size_t warp = running->number / WARP_SIZE;
    unsigned char *all = &slots[(warp * 2 + running->meetings++ % 2) * WARP_SIZE * MOST_LEFT];
    if (bytes > MOST_LEFT)
        fail("more is left at a meeting than there is room for", site);
    std::memcpy(all + lane() * MOST_LEFT, mine, bytes);
    wait_as(State::AtMeeting, site);
    return all;
}

void check_access(const void *pointer, size_t bytes, bool, Site site) {
    if (reinterpret_cast<uintptr_t>(pointer) % bytes)
        fail("an access is not aligned", site);
    if (!is_in_buffer(pointer, bytes) && !is_shared(pointer, bytes))
        fail("an access is outside of every buffer", site);
}

void mma(float (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, Site site) {
    struct Left {
        unsigned a[4], b[2];
    } mine = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
    const unsigned char *all = meet(&mine, sizeof mine, site);
    auto left = [&](unsigned lane) { return reinterpret_cast<const Left *>(all + lane * MOST_LEFT); };
    unsigned group = lane() / 4, pair = lane() % 4;
    for (unsigned i = 0; i < 4; i++) {
        unsigned column = 2 * pair + i % 2;
        for (unsigned k = 0; k < 16; k++) {
            unsigned owner = k % 8 / 2, upper = k / 8;
            sums[i] += value_of(left(4 * group + owner)->a[2 * upper + i / 2], k % 2) * value_of(left(4 * column + owner)->b[upper], k % 2);
        }
    }
}

void load_matrices(unsigned (&into)[4], const void *row, bool transposed, Site site) {
    if (!is_on_pack(row))
        fail("a row of a matrix does not begin on 16 bytes", site);
    if (!is_shared(row, 16))
        fail("a row of a matrix is not in shared memory", site);
    struct Left {
        unsigned char row[16];
        const void *from;
    } mine;
    std::memcpy(mine.row, row, sizeof mine.row);
    mine.from = row;
    const unsigned char *all = meet(&mine, sizeof mine, site);
    auto left = [&](unsigned lane) { return reinterpret_cast<const Left *>(all + lane * MOST_LEFT); };
    unsigned group = lane() / 4, pair = lane() % 4;
    // The rows of a matrix are read at once, and all banks are 128 bytes wide.
    for (unsigned other = lane() / 8 * 8; other < lane(); other++) {
        auto at = reinterpret_cast<uintptr_t>(row), of_other = reinterpret_cast<uintptr_t>(left(other)->from);
        conflicts += at != of_other && at % 128 == of_other % 128;
    }
    for (unsigned i = 0; i < 4; i++) {
        auto element = [&](unsigned row, unsigned column) {
            uint16_t bits;
            std::memcpy(&bits, left(8 * i + row)->row + 2 * column, sizeof bits);
            return unsigned(bits);
        };
        into[i] = transposed ? element(2 * pair, group) | element(2 * pair + 1, group) << 16
                             : element(group, 2 * pair) | element(group, 2 * pair + 1) << 16;
    }
}

void copy_async(void *to, const void *from, unsigned bytes, unsigned whole, Site site) {
    if (reinterpret_cast<uintptr_t>(to) % whole || reinterpret_cast<uintptr_t>(from) % whole)
        fail("an asynchronous copy is not aligned", site);
    if (!is_shared(to, whole))
        fail("an asynchronous copy does not go to shared memory", site);
    if (bytes > whole || (bytes > 0 && !is_in_buffer(from, bytes)))
        fail("an asynchronous copy reads outside of every buffer", site);
    std::memset(to, POISON, whole);
    running->copies.push_back({static_cast<unsigned char *>(to), static_cast<const unsigned char *>(from), bytes, whole, running->groups});
}

void commit_copies() { running->groups++; }

void wait_for_copies(unsigned pending, Site site) {
    if (is_left_out(site))
        return;
    auto &copies = running->copies;
    size_t landed = 0;
    for (; landed < copies.size() && copies[landed].group + pending < running->groups; landed++) {
        const Copy &copy = copies[landed];
        std::memcpy(copy.to, copy.from, copy.bytes);
        std::memset(copy.to + copy.bytes, 0, copy.whole - copy.bytes);
    }
    copies.erase(copies.begin(), copies.begin() + ptrdiff_t(landed));
}

void add_kernel(const char *name, unsigned most_threads, void (*call)(void *, void **), void *function) {
    kernels()[name] = Kernel{most_threads, call, function};
}

} // namespace emulation

using namespace emulation;

// Poisoned memory of the device.
extern "C" void *emulated_alloc(size_t bytes) {
    auto memory = std::make_unique<Guarded>();
    memory->make(bytes);
    void *data = memory->data();
    buffers[reinterpret_cast<uintptr_t>(data)] = std::move(memory);
    return data;
}

extern "C" void emulated_free(void *data) { buffers.erase(reinterpret_cast<uintptr_t>(data)); }

extern "C" int emulated_has(const char *name) { return kernels().count(name) ? 1 : 0; }

// Leaves out the barrier or wait at this line from now on, or none where `line` is 0.
extern "C" void emulated_drop(const char *file, int line) { dropped = {file, line}; }

// The number `at` of the barriers and waits that threads have come to since the program began; 0 where there is no such number.
extern "C" int emulated_barrier(size_t at, const char **file) {
    for (auto &[name, line] : barriers)
        if (at-- == 0) {
            *file = name.c_str();
            return line;
        }
    return 0;
}

// How many pairs of rows of matrices met in a bank of shared memory during the last launch.
extern "C" int emulated_conflicts() { return conflicts; }

// Runs a kernel to its end; the words of an error where it failed, which stay until the next launch.
extern "C" const char *emulated_launch(const char *name, const unsigned *grid, const unsigned *block, size_t dynamic_bytes, void **with, int descending) {
    error.clear();
    conflicts = 0;
    gridDim = Dim3{grid[0], grid[1], grid[2]};
    blockDim = Dim3{block[0], block[1], block[2]};
    blockIdx = Dim3{0, 0, 0};
    auto found = kernels().find(name);
    if (found == kernels().end())
        return say("there is no such kernel", Site{name, 0}), told();
    kernel = &found->second;
    running_kernel = found->first.c_str();
    arguments = with;
    size_t threads = size_t(block[0]) * block[1] * block[2];
    if (threads % WARP_SIZE || threads == 0 || threads > kernel->most_threads)
        return say("the number of threads is not a multiple of the warp up to the kernel's bound", Site{name, int(threads)}), told();
    if (grid[0] == 0 || grid[1] == 0 || grid[2] == 0 || grid[1] > 65535 || grid[2] > 65535)
        return say("the grid is empty or too large", Site{name, 0}), told();
    tell_of_wild_accesses();
    // Blocks, too, run in the other order: what one leaves for another shows.
    size_t blocks = size_t(grid[0]) * grid[1] * grid[2];
    for (size_t at = 0; at < blocks; at++) {
        size_t number = descending ? blocks - 1 - at : at;
        blockIdx = Dim3{unsigned(number % grid[0]), unsigned(number / grid[0] % grid[1]), unsigned(number / grid[0] / grid[1])};
        run_block(dynamic_bytes, descending != 0);
        if (!error.empty())
            return told();
    }
    running_kernel = nullptr;
    for (auto &[data, memory] : buffers)
        if (!memory->whole())
            say("a kernel wrote outside of its buffers", Site{name, 0});
    return told();
}
