package userland

// rlimShift makes RLIM_INFINITY of the all-ones value: it is all ones on Linux.
const rlimShift = 0
