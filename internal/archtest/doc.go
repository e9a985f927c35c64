// Package archtest is the law of the source tree: which package may import which, and the
// few rules that a reviewer should never have to repeat (a package doc, no init, exit only
// in main, backend names only below internal/driver, no fixed sleeps, …).
//
// It reads the tree with go/parser in this process. It does not type-check, does not run the
// go tool (a child's reads are invisible to the test cache, which would then answer a stale
// "ok (cached)") and is not a linter: what golangci-lint checks already is left to it.
// Nothing imports it; its own test runs it over the whole module. When it fails, the message
// says which law and what to do. To change a law, change law.go and docs/architecture.md in
// the same commit.
package archtest
