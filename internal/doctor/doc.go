// Package doctor finds out whether this host can run microVMs, says exactly what is missing
// and how to get it, and repairs what is safe to repair.
//
// It is a list of checks over functions that it is given (Host): it starts no machine, looks
// up no paths and imports nothing of ours. Only cli runs it; the composition root says where
// the directories are.
package doctor
