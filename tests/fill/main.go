// Command fill stores many small blobs in a repository, so that the cost of a large one can be measured: fill DIR CREDENTIAL COUNT.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"time"

	"packhold/backends/local"
	"packhold/crypt"
	"packhold/repo"
	"packhold/repo/snapshot"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "fill:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 3 {
		return errors.New("the arguments are DIR CREDENTIAL COUNT")
	}
	n, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	return fill(ctx, args[0], args[1], n)
}

// fill stores n small blobs in the repository at dir, as the host of the credential in the file.
func fill(ctx context.Context, dir, file string, n int) error {
	st, err := local.Open(dir, local.Options{})
	if err != nil {
		return err
	}
	defer st.Close()
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	c := new(crypt.Credential)
	if err := c.UnmarshalJSON(b); err != nil {
		return err
	}
	r, err := repo.Open(ctx, st, repo.Access{Credential: c}, repo.Options{})
	if err != nil {
		return err
	}
	s, err := r.Begin(ctx, repo.SessionOptions{Compression: "none", NoValidate: true})
	if err != nil {
		return err
	}
	defer s.Close(ctx)
	w, err := s.NewWorker()
	if err != nil {
		return err
	}
	for i := range n {
		if _, _, err := w.Store(fmt.Appendf(nil, "blob %d of those beside the files", i)); err != nil {
			return err
		}
	}
	page, err := (&snapshot.Page{}).Encode()
	if err != nil {
		return err
	}
	root, _, err := w.StoreTree(page)
	if err != nil {
		return err
	}
	_, err = s.Commit(ctx, &snapshot.Record{Root: root, Type: snapshot.Full, Start: snapshot.Time{Sec: time.Now().Unix()}, Lineage: [32]byte{1}},
		&snapshot.Body{Sources: []string{"/blobs"}}, nil)
	return err
}
