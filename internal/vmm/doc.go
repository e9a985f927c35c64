// Package vmm is what every driver needs whose VMM is a program that runs as a child process: to
// ask the program for its version and remember the answer, to boot a test guest once per boot of
// the host, to open the machine's files without being tricked, to start the program such that it
// dies with us, and to keep what it and the guest's kernel said last.
//
// It knows no VMM: command lines, APIs and what a certain program's words mean are the drivers',
// and so is driver.VM. Only drivers import it.
package vmm
