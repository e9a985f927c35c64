package main

import (
	"os"
	"slices"
	"strconv"
)

// monitorSlack is by how much the kernel may delay the wake-ups of the runtime's monitor thread,
// in nanoseconds. The default is 50 µs.
const monitorSlack = 1_000_000

// calmMonitor lets the kernel put off the wake-ups of the Go runtime's monitor thread, which
// sleeps for 20 µs at a time as long as goroutines run and is woken some fifty times by each
// command that the host sends. On an emulated processor a timer interrupt and two switches of
// thread cost more than that pause: without them an exec's own cost falls by a quarter, and a
// program's output leaves the guest at nearly twice the speed. What the monitor is for (taking a
// processor from a thread that blocks in the kernel, and from a goroutine that does not yield
// for 10 ms) may come up to 1 ms late.
//
// The slack belongs to that one thread (proc_pid_timerslack_ns(5)): programs inherit that of the
// thread which starts them, and keep the default. The runtime starts the monitor before anything
// else (runtime.main in proc.go), so it is the process's second thread. If it ever were not,
// another thread would have coarser timers and nothing would break; so would nothing on a kernel
// without that file. It needs /proc.
func calmMonitor() {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	var ids []int
	for _, t := range threads {
		if id, err := strconv.Atoi(t.Name()); err == nil {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	if len(ids) < 2 || ids[0] != os.Getpid() { // thread numbers have wrapped around
		return
	}
	_ = os.WriteFile("/proc/"+strconv.Itoa(ids[1])+"/timerslack_ns", []byte(strconv.Itoa(monitorSlack)), 0)
}
