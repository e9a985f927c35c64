// Package drivertest is the conformance suite that every driver runs: what package driver
// promises, tried with real drives, a real agent and, for drivers that boot one, a real
// kernel. A driver's own test is one call of Run.
//
// It tests behaviour through the contract and knows no driver by name. Only test files
// import it.
package drivertest
