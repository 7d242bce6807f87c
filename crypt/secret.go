package crypt

import (
	"fmt"
	"io"
)

// What holds a secret prints as its kind alone, whatever the verb, so that no log line or panic message gives it away.

// Format prints no secret.
func (WriteSecret) Format(f fmt.State, _ rune) { io.WriteString(f, "[write secret]") }

// Format prints no secret.
func (SessionKey) Format(f fmt.State, _ rune) { io.WriteString(f, "[session key]") }

// Format prints no secret.
func (LocalKey) Format(f fmt.State, _ rune) { io.WriteString(f, "[local key]") }

// Format prints no secret.
func (Identity) Format(f fmt.State, _ rune) { io.WriteString(f, "[identity]") }

// Format prints no secret.
func (Root) Format(f fmt.State, _ rune) { io.WriteString(f, "[root]") }

// Format prints no secret.
func (Bundle) Format(f fmt.State, _ rune) { io.WriteString(f, "[bundle]") }

// Format prints no secret.
func (Grant) Format(f fmt.State, _ rune) { io.WriteString(f, "[grant]") }

// Format prints no secret.
func (Credential) Format(f fmt.State, _ rune) { io.WriteString(f, "[credential]") }

// Format prints no secret.
func (ReadPrivate) Format(f fmt.State, _ rune) { io.WriteString(f, "[private read key]") }

// Format prints no secret.
func (OpenedSlot) Format(f fmt.State, _ rune) { io.WriteString(f, "[opened key slot]") }
