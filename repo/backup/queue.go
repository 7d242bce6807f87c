package backup

import "sync"

// task is a piece of work for any worker. A task that is taken is done; one that nobody takes is dropped, which frees what it holds.
type task interface {
	do(w *worker) error
	drop()
}

// maxWaiting is how many large files may wait for the reader before the walk pauses: each keeps a directory open.
const maxWaiting = 64

// queue holds what is to be done. Chunks of large files come first, because they hold buffers; then what was pushed last, so that
// few directories are open at once.
type queue struct {
	finished func() // called once when done; set before the start

	mu     sync.Mutex // guards what follows
	work   sync.Cond  // workers wait here
	read   sync.Cond  // the reader of large files waits here
	chunks []*chunkTask
	tasks  []task
	large  []*largeFile
	parked map[task]bool // pushed again by unpark
	over   bool          // done or failed: nobody gets anything any more
}

func (q *queue) init() {
	q.work.L, q.read.L = &q.mu, &q.mu
	q.parked = make(map[task]bool)
}

// push adds tasks. The last of them is done first.
func (q *queue) push(tasks ...task) {
	q.mu.Lock()
	q.tasks = append(q.tasks, tasks...)
	q.mu.Unlock()
	if len(tasks) == 1 {
		q.work.Signal()
	} else {
		q.work.Broadcast()
	}
}

func (q *queue) pushChunk(c *chunkTask) {
	q.mu.Lock()
	q.chunks = append(q.chunks, c)
	q.mu.Unlock()
	q.work.Signal()
}

func (q *queue) pushLarge(f *largeFile) {
	q.mu.Lock()
	q.large = append(q.large, f)
	q.mu.Unlock()
	q.read.Signal()
}

// park puts t aside until unpark.
func (q *queue) park(t task) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.parked[t] = true
}

func (q *queue) unpark(t task) {
	q.mu.Lock()
	delete(q.parked, t)
	q.mu.Unlock()
	q.push(t)
}

// fail wakes everybody up to stop.
func (q *queue) fail() {
	q.mu.Lock()
	q.over = true
	q.mu.Unlock()
	q.work.Broadcast()
	q.read.Broadcast()
}

// finish says that the root is complete.
func (q *queue) finish() {
	q.fail()
	if q.finished != nil {
		q.finished()
	}
}

// take returns a task, or nil when there is nothing left to do.
func (q *queue) take() task {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.over {
		if len(q.chunks) > 0 {
			return shift(&q.chunks)
		}
		if k := len(q.tasks) - 1; k >= 0 && len(q.large) < maxWaiting {
			t := q.tasks[k]
			q.tasks[k] = nil
			q.tasks = q.tasks[:k]
			return t
		}
		q.work.Wait()
	}
	return nil
}

// takeLarge returns the next large file, or nil when there is nothing left to do.
func (q *queue) takeLarge() *largeFile {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.over {
		if len(q.large) > 0 {
			if len(q.large) == maxWaiting {
				q.work.Broadcast()
			}
			return shift(&q.large)
		}
		q.read.Wait()
	}
	return nil
}

// shift removes the first element, and leaves no pointer to it behind.
func shift[T any](list *[]*T) *T {
	t := (*list)[0]
	(*list)[0] = nil
	*list = (*list)[1:]
	return t
}

// drain drops what nobody took. Nobody else uses the queue any more.
func (q *queue) drain() {
	for _, c := range q.chunks {
		c.drop()
	}
	for _, t := range q.tasks {
		t.drop()
	}
	for _, f := range q.large {
		f.h.drop()
	}
	for t := range q.parked {
		t.drop()
	}
	q.chunks, q.tasks, q.large, q.parked = nil, nil, nil, nil
}
