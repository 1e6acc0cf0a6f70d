// Command generate writes the files that follow from pkg/event and
// pkg/contract below the root of the repository, its only argument.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/specwatch/specwatch/pkg/contract"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: generate ROOT")
		os.Exit(2)
	}
	for name, text := range contract.Files() {
		if err := os.WriteFile(filepath.Join(os.Args[1], name), []byte(text), 0o644); err != nil { // #nosec G703 -- the folder that the caller named
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}
