// Package tests builds the program packhold and drives it from outside, as its user does: it imports nothing of packhold.
package tests
