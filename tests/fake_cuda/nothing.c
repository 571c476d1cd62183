// The CUDA runtime and driver as torch's autograd and FakeTensors ask for them, of one GPU that computes nothing.
// Preloaded in the driver's place. Each call says that it worked; those that give a number give a plausible one.
#include "driver_types.h"

#define WORKS(name) int name(void) { return cudaSuccess; }
#define GIVES(name, number) int name(int *value) { *value = number; return cudaSuccess; }
#define HANDS_OUT(name) int name(long *handle) { static long next = 1 << 10; *handle = next += 64; return cudaSuccess; }

GIVES(cudaGetDeviceCount, 1)
GIVES(cudaGetDevice, 0)
GIVES(cudaDriverGetVersion, 13000)
GIVES(cudaRuntimeGetVersion, 13000)
HANDS_OUT(cudaStreamCreateWithPriority)
HANDS_OUT(cudaEventCreateWithFlags)
WORKS(cudaSetDevice)
WORKS(cudaGetLastError)
WORKS(cudaPeekAtLastError)
WORKS(cudaDeviceSynchronize)
WORKS(cudaStreamSynchronize)
WORKS(cudaStreamQuery)
WORKS(cudaStreamWaitEvent)
WORKS(cudaEventRecord)
WORKS(cudaEventRecordWithFlags)
WORKS(cudaEventQuery)
WORKS(cudaEventSynchronize)
WORKS(cudaEventDestroy)
WORKS(cudaThreadExchangeStreamCaptureMode)
WORKS(cudaMemcpyAsync)

int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { *least = 0; *greatest = -5; return cudaSuccess; }
int cudaStreamIsCapturing(void *stream, int *status) { *status = 0; return cudaSuccess; }
int cudaStreamGetCaptureInfo(void *stream, int *status) { *status = 0; return cudaSuccess; }
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) { *flags = 0; *active = 1; return 0; }

// Room enough for what torch allocates of its own accord; fake tensors take none.
int cudaMalloc(void **place, long size) {
    static char room[1 << 22] __attribute__((aligned(512)));
    *place = room;
    return size > sizeof room ? cudaErrorMemoryAllocation : cudaSuccess;
}

// Pinned memory is host memory.
extern void *aligned_alloc(unsigned long, unsigned long);
int cudaHostAlloc(void **place, unsigned long size, unsigned flags) {
    *place = aligned_alloc(512, (size + 511) / 512 * 512);
    return cudaSuccess;
}
WORKS(cudaHostRegister)
WORKS(cudaHostUnregister)
int cudaPointerGetAttributes(struct cudaPointerAttributes *found, void *place) {
    __builtin_memset(found, 0, sizeof *found);
    found->type = cudaMemoryTypeHost;
    return cudaSuccess;
}

int cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device) {
    __builtin_memset(properties, 0, sizeof *properties);
    properties->major = 9;
    properties->multiProcessorCount = 132;
    properties->warpSize = 32;
    properties->totalGlobalMem = 80000000000;
    return cudaSuccess;
}
