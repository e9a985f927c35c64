// Package agentbin is the guest agent inside the host binary, and beside it mvm-krun, the one other
// program of ours that mvmctl starts and cannot be itself.
//
// scripts/build.sh compiles cmd/mvm-agent (and cmd/mvm-krun) for linux, compresses it and puts it below bin/<arch>;
// `go build` then embeds what lies there. In a fresh clone that is only a README, so that the
// module always compiles; such a binary looks for an agent in a file instead.
//
// Extract makes the agent a file in the cache, where package initrd takes it from. The package
// does not know what the agent does and does not put it into a machine. The engine calls it.
package agentbin
