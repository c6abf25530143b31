/* Delays in steps of under 1 %, from a nanosecond to centuries, in 64 KiB: what both clients report their delays from. */
#ifndef HISTOGRAM_H
#define HISTOGRAM_H

#include <stdint.h>

enum { SUB = 128 }; /* steps in each doubling */

typedef uint64_t histogram[64 * SUB];

static inline void histogram_add(uint64_t *counts, uint64_t ns) {
    int shift = ns < SUB ? 0 : 63 - __builtin_clzll(ns) - 7;
    counts[(uint64_t)shift * SUB + (ns >> shift)]++;
}

/* The `part` (0..1) of a histogram, in milliseconds. */
static inline double histogram_part(const uint64_t *counts, double part) {
    uint64_t total = 0, below = 0;
    for (int i = 0; i < 64 * SUB; i++)
        total += counts[i];
    for (int i = 0; i < 64 * SUB; i++)
        if (total && (below += counts[i]) >= part * total) {
            int shift = i < 2 * SUB ? 0 : i / SUB - 1;
            return (double)((uint64_t)(i - shift * SUB) << shift) / 1e6;
        }
    return 0;
}

#endif
