package config

import (
	_ "embed"
	"encoding/json"
	"strings"
)

// schema is the published JSON Schema (2020-12) of the configuration file.
//
//go:embed config.schema.json
var schema string

// Schema returns the JSON Schema of the configuration file.
func Schema() string { return schema }

//go:embed sample.json
var sample string

// Sample returns a commented configuration file that keeps the repository at path. It holds every field once; those that
// are commented out are at their default or an example. Parse accepts it as it is and with every example switched on.
func Sample(path string) string {
	quoted, err := json.Marshal(path) // a Windows path needs escapes
	if err != nil {
		panic("config: a string does not marshal: " + err.Error())
	}
	return strings.Replace(sample, `"/backups"`, string(quoted), 1)
}
