// Package ui is how mvmctl looks: tables, the progress line, JSON, questions, and the escaping
// of text that came from elsewhere.
//
// It knows terminals and writers, not machines: it calls nothing of ours and decides nothing.
// Only cli calls it. Nothing here uses colour, so NO_COLOR has nothing to turn off.
//
// Everything that a guest, an image or a file from outside said goes through Line or Text
// before it reaches a person: a terminal obeys what it is shown.
package ui
