// Package service keeps a guest's programs running and asks them how they are: services with
// restarts and back-off, health checks and probes with their start-up grace.
//
// It starts processes through guestproc and tells the agent what happened through functions
// that it is handed; it knows nothing of the channel and decides nothing about the machine's
// life. cmd/mvm-agent puts it together.
package service
