// Package guestproc starts and reaps the processes of a guest: who a program runs as, where,
// with which environment, and how it ended.
//
// A Table owns reaping. It is right as PID 1 and as a subreaper, where orphans come to it and
// every zombie is its business, and as a plain process, where it touches only children that
// it started itself. Each process leads a session and a process group of its own, so that a
// signal reaches all of it.
//
// It is not a service manager (service), keeps no output and knows no protocol streams
// (agent). agent, service and cmd/mvm-agent call it. In a process whose Table reaps
// everything, nothing else may wait for children: os/exec would find its child gone.
package guestproc
