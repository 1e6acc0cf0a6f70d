// Command generate writes the TypeScript side of the contract to the file
// that its only argument names.
package main

import (
	"fmt"
	"os"

	"github.com/specwatch/specwatch/pkg/contract"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: generate FILE")
		os.Exit(2)
	}
	if err := os.WriteFile(os.Args[1], []byte(contract.TypeScript()), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
