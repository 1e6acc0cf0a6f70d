// Command specwatch writes, serves, follows and prunes the events of
// unattended coding-agent loops.
package main

import "os"

func main() {
	os.Exit(execute(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
