// Package e2e holds the tests that use mvmctl as a user does: the real program, real
// supervisors, real virtual machines. It has no code of its own outside its tests.
package e2e
