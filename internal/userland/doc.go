// Package userland is the small set of commands that the guest agent carries,
// so that a microVM is usable without any image: a POSIX-like shell and the
// usual file, text, process and network commands, all in one binary that looks
// at the name it was started by.
//
// The shell language is mvdan.cc/sh; this package adds what that library leaves
// to its caller: running commands, real process ids for background jobs, kill,
// wait, umask, signal traps and an interactive mode. The commands are written
// here. They follow POSIX and, for the common options, what GNU coreutils and
// busybox print; they are not complete, and an unknown option is an error, never
// silently ignored.
//
// No command touches process-wide state such as the working directory: each gets
// its directory, environment and streams from its caller, so that commands can
// run side by side in one process. The shell uses that to run most of them
// without starting a process, which matters where starting one is slow (a guest
// under emulation).
//
// Callers: cmd/mvm-agent (Main, when started as "sh", "ls", ...) and
// internal/agent (Run). Parts that need Linux are missing on other systems.
package userland
