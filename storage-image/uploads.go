package main

import (
	"context"
	"log"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/versity/versitygw/backend/posix"
)

const inProgress = ".inprogress"

// reopenUploads restores uploads that a killed server was assembling. versitygw has renamed such an upload, and would
// answer the client's next attempt as if the object existed.
func reopenUploads(bucket string) error {
	begun, err := filepath.Glob(filepath.Join(bucket, posix.MetaTmpMultipartDir, "*", "*"+inProgress))
	if err != nil {
		return err
	}
	for _, path := range begun {
		id, _, _ := strings.Cut(filepath.Base(path), ".")
		if err := os.Rename(path, filepath.Join(filepath.Dir(path), id)); err != nil {
			return err
		}
	}
	return nil
}

// removeAbandoned removes old uploads now and every hour, until the context ends.
func removeAbandoned(context context.Context, bucket string) {
	for {
		uploads, _ := filepath.Glob(filepath.Join(bucket, posix.MetaTmpMultipartDir, "*", "*"))
		for _, path := range uploads {
			upload, err := os.Stat(path)
			if err != nil || time.Since(upload.ModTime()) < uploadAge {
				continue
			}
			if err := os.RemoveAll(path); err != nil {
				log.Printf("cannot remove the abandoned upload %s: %v", path, err)
			}
			_ = os.Remove(filepath.Dir(path)) // fails while it holds another upload
		}
		select {
		case <-context.Done():
			return
		case <-time.After(time.Hour):
		}
	}
}
