//go:build !race

package admin

const race = false
