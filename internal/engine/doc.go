// Package engine holds the verbs of mvmctl: up, down, exec, logs and their kin. It decides,
// prepares, calls and undoes on failure; it prints nothing and parses no flags.
//
// It does not talk to VMMs (that is the supervisor's and the drivers' work), does not know
// where records live on disk (store) and does not know how a supervisor is reached (control):
// it declares the small interfaces it needs and the composition root hands them in. Only cli
// calls it.
package engine
