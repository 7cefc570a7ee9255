-- Answers: the server's time.
return exact(now)
