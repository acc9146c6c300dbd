package javax.annotation;

/** What generated code is marked with. It is no part of Java any more, and its jar is not Debian's. */
public @interface Generated {
  String value();

  String comments();
}
